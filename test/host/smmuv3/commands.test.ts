import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { PartialCount } from '../../../src/host/drivers/smmuv3/commands.ts';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import { OP } from '../../../src/spec/smmuv3/commands.ts';
import { bench, type Seen } from './bench.ts';

const EIO = -5;
const ETIMEDOUT = -110;
const VSID = 0x88;
const SID = 8;
const MODES = ['uapi-ideal', 'linux-as-is'] as const;

function stand(partialCount: PartialCount = 'uapi-ideal') {
  const b = bench({ partialCount });
  const dev = b.device('nic', [SID]);
  b.parent(dev);
  // VMID 2, so that a VMID of the guest's own choosing shows.
  const vsmmu = b.viommu(dev, b.parent(dev), new Map([[VSID, dev]]));
  b.hw.take();
  return { ...b, dev, vsmmu };
}

const commandsOf = (seen: readonly Seen[]) => seen.filter((s) => s.what === 'command').map((s) => [...s.words]);
const NH_ASID = (asid: number) => [OP.TLBI_NH_ASID, (asid << 16) | 0x7777, 0, 0];
const BAD = [OP.CFGI_STE, SID, 1, 0];

describe('every opcode', () => {
  const RETAGGED: readonly number[] = [OP.TLBI_NH_ALL, OP.TLBI_NH_ASID, OP.TLBI_NH_VA, OP.TLBI_NH_VAA];
  const STREAMS: readonly number[] = [OP.ATC_INV, OP.CFGI_CD, OP.CFGI_CD_ALL];

  test('0 to 255 is forwarded with real ids, or is EIO and reaches nothing', () => {
    const { vsmmu, hw } = stand();
    for (let op = 0; op < 256; op++) {
      const w = [op | 0xfff_f300, VSID, 0x1234_5fff, 0x00ab_cdef];
      const { r, done } = vsmmu.run(w);
      const out = commandsOf(hw.take());
      if (op === OP.TLBI_NSNH_ALL) expect([r, done, out]).toEqual([0, 1, [[OP.TLBI_NH_ALL, 2, 0, 0]]]);
      else if (RETAGGED.includes(op)) expect([r, done, out]).toEqual([0, 1, [[w[0], 2, w[2], w[3]]]]);
      else if (STREAMS.includes(op)) expect([r, done, out]).toEqual([0, 1, [[w[0], SID, w[2], w[3]]]]);
      else expect([op, r, done, out]).toEqual([op, EIO, 0, []]);
    }
  });

  test('that names a stream needs a vDEVICE of that name', () => {
    const { vsmmu, hw } = stand();
    for (const op of STREAMS) {
      for (const vsid of [0, SID, VSID + 1, 0xffff_ffff])
        expect(vsmmu.run([op, vsid | 0, 0, 0])).toEqual({ r: EIO, done: 0 });
    }
    expect(commandsOf(hw.take())).toEqual([]);
  });

  test('keeps every other bit of TLBI and stream commands: nothing of them is checked', () => {
    const { vsmmu, hw } = stand();
    const word = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
    fc.assert(
      fc.property(fc.constantFrom(...RETAGGED, ...STREAMS), word, word, word, word, (op, a, b, c, d) => {
        const w0 = (a & ~0xff) | op;
        const stream = STREAMS.includes(op);
        expect(vsmmu.run([w0, stream ? VSID : b, c, d])).toEqual({ r: 0, done: 1 });
        expect(commandsOf(hw.take())).toEqual([[w0, stream ? SID : (b & ~0xffff) | 2, c, d]]);
      }),
    );
  });
});

test('the array of the caller is not changed', () => {
  const { vsmmu } = stand();
  const words = Int32Array.from([...NH_ASID(3), OP.ATC_INV, VSID, 0, 0, OP.TLBI_NSNH_ALL, 5, 6, 7]);
  const before = words.slice();
  vsmmu.driver.invalidation!.run(words, 0, 3);
  expect(words).toEqual(before);
});

test.each(MODES)('batches end in a sync after 63 commands, in order (%s)', (mode) => {
  for (const n of [1, 62, 63, 64, 126, 127, 200]) {
    const { vsmmu, hw } = stand(mode);
    expect(vsmmu.run(...Array.from({ length: n }, (_, i) => NH_ASID(i + 1)))).toEqual({ r: 0, done: n });
    const seen = hw.take();
    const sizes: number[] = [];
    let size = 0;
    for (const s of seen) {
      if (s.what === 'sync') {
        sizes.push(size);
        size = 0;
      } else size++;
    }
    expect(sizes).toEqual([...Array(Math.floor(n / 63)).fill(63), ...(n % 63 === 0 ? [] : [n % 63])]);
    expect(commandsOf(seen).map((w) => w[1]! >>> 16)).toEqual(Array.from({ length: n }, (_, i) => i + 1));
  }
});

describe('a command that cannot be converted', () => {
  // Position of the bad entry, commands issued by Linux before it: whole batches of 63 only.
  test.each([
    [0, 0],
    [1, 0],
    [61, 0],
    [62, 0],
    [63, 63],
    [64, 63],
    [126, 126],
    [130, 126],
  ])(
    'at entry %i: Linux counts them all as done and has issued %i; the ideal host has issued what it counts',
    (at, issued) => {
      const array = Array.from({ length: at + 3 }, (_, i) => (i === at ? BAD : NH_ASID(i + 1)));

      const linux = stand('linux-as-is');
      expect(linux.vsmmu.run(...array)).toEqual({ r: EIO, done: at });
      expect(commandsOf(linux.hw.take())).toHaveLength(issued);

      const ideal = stand('uapi-ideal');
      expect(ideal.vsmmu.run(...array)).toEqual({ r: EIO, done: at });
      expect(commandsOf(ideal.hw.take())).toHaveLength(at);
    },
  );

  test('leaves nothing behind for the next array', () => {
    const { vsmmu, hw } = stand('linux-as-is');
    vsmmu.run(NH_ASID(1), BAD);
    expect(vsmmu.run(NH_ASID(2))).toEqual({ r: 0, done: 1 });
    expect(commandsOf(hw.take()).map((w) => w[1]! >>> 16)).toEqual([2]);
  });
});

describe('a command the hardware refuses', () => {
  const refusing = (mode: PartialCount) => {
    const s = stand(mode);
    s.hw.refuse = (w) => (w[1]! >>> 16 === 5 ? HW_ERROR.ILLEGAL : HW_ERROR.NONE);
    return s;
  };
  const array = Array.from({ length: 9 }, (_, i) => NH_ASID(i + 1));

  test('is skipped by Linux, which tells nobody', () => {
    const { vsmmu, hw } = refusing('linux-as-is');
    expect(vsmmu.run(...array)).toEqual({ r: 0, done: 9 });
    expect(commandsOf(hw.take()).map((w) => w[1]! >>> 16)).toEqual([1, 2, 3, 4, 6, 7, 8, 9]);
  });

  test('is EIO at its own index on the ideal host, and nothing behind it runs', () => {
    const { vsmmu, hw } = refusing('uapi-ideal');
    expect(vsmmu.run(...array)).toEqual({ r: EIO, done: 4 });
    expect(commandsOf(hw.take()).map((w) => w[1]! >>> 16)).toEqual([1, 2, 3, 4]);
  });
});

describe('a submission that never completes', () => {
  test('is ETIMEDOUT: Linux names the entry before the end of that batch', () => {
    const { vsmmu, hw } = stand('linux-as-is');
    hw.refuseSync = () => HW_ERROR.ABORT;
    expect(vsmmu.run(...Array.from({ length: 70 }, (_, i) => NH_ASID(i + 1)))).toEqual({ r: ETIMEDOUT, done: 62 });
  });

  test('ends: the kernel does not retry for ever, whatever the hardware says', () => {
    for (const mode of MODES) {
      for (const error of [HW_ERROR.ILLEGAL, HW_ERROR.ABORT, HW_ERROR.ATC_TIMEOUT]) {
        const { vsmmu, hw } = stand(mode);
        hw.refuseSync = () => error;
        expect(vsmmu.run([OP.ATC_INV, VSID, 52, 0])).toEqual({ r: ETIMEDOUT, done: 0 });
      }
    }
  });

  test('but comes back in time is a success', () => {
    const { vsmmu, hw } = stand('linux-as-is');
    let failures = 2;
    hw.refuseSync = () => (failures-- > 0 ? HW_ERROR.ATC_TIMEOUT : HW_ERROR.NONE);
    expect(vsmmu.run([OP.ATC_INV, VSID, 52, 0], NH_ASID(1))).toEqual({ r: 0, done: 2 });
    expect(commandsOf(hw.take())).toHaveLength(2);
  });
});

describe('what a stage-2 change makes the kernel issue', () => {
  function mapped(options: Parameters<typeof bench>[0] = {}) {
    const b = bench(options);
    const dev = b.device('nic', [SID]);
    const plain = b.device('plain', [9], { ats: false });
    const parent = b.parent(dev);
    const vsmmu = b.viommu(dev, parent, new Map([[VSID, dev]]));
    const domain = vsmmu.nested(0xbn, 1n << 28n);
    if (typeof domain === 'number') throw new Error('refused');
    b.attach(dev, domain);
    b.attach(plain, parent);
    parent.map(0x4000_0000n, 0x100_4000_0000, 0x40_0000, 7);
    parent.map(0x8000_0000n, 0x100_8000_0000, 0x5000, 7);
    b.hw.take();
    return { ...b, parent };
  }

  test('unmapping: by IPA, then the VMID stage 1, then every ATS function whole, each after a sync', () => {
    const { parent, hw } = mapped();
    expect(parent.unmap(0x8000_0000n, 0x5000n)).toBe(0x5000n);
    const seen = hw.take();
    const order = seen.map((s) => (s.what === 'command' ? s.command.op : '|'));
    expect(order.join(' ')).toBe('TLBI_S2_IPA | TLBI_NH_ALL | ATC_INV |');
    expect(seen.filter((s) => s.what === 'command').map((s) => s.command)).toMatchObject([
      { vmid: 1, address: 0x8000_0000n, tg: 1, num: 4, scale: 0, ttl: 3, leaf: true },
      { vmid: 1 },
      { sid: SID, ssid: null, size: 52, address: 0n },
    ]);
  });

  test('blocks carry their level; a range is made of powers of two', () => {
    const { parent, hw } = mapped();
    parent.unmap(0x4000_0000n, 0x40_0000n);
    const first = hw.take().find((s) => s.what === 'command')!;
    expect(first.command).toMatchObject({ op: 'TLBI_S2_IPA', ttl: 2, leaf: true, num: 0, scale: 10 });
  });

  test('without range commands it is page by page, and the whole VMID when that is too many', () => {
    const { parent, hw } = mapped({
      identity: { idr: [0x0d44_141b, 0x0273_0010, 0, 0x1014, 0, 0x74], iidr: 0, aidr: 1 },
    });
    parent.unmap(0x8000_0000n, 0x5000n);
    expect(hw.ops()).toBe(`${'TLBI_S2_IPA '.repeat(5)}| TLBI_NH_ALL | ATC_INV |`);
    parent.unmap(0x4000_0000n, 0x40_0000n);
    expect(hw.ops()).toBe('TLBI_S12_VMALL | TLBI_NH_ALL | ATC_INV |');
  });

  test('no range command is ever one the hardware must refuse, and together they cover the range exactly', () => {
    const b = bench();
    const dev = b.device('nic', [SID]);
    const parent = b.parent(dev);
    b.attach(dev, parent);
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5000 }),
        fc.integer({ min: 0, max: 1000 }),
        fc.boolean(),
        (pages, skew, odd) => {
          const iova = 0x4000_0000n + BigInt(skew) * 0x1000n;
          parent.map(iova, 0x100_4000_0000 + (odd ? 0x1000 : 0) + skew * 0x1000, pages * 0x1000, 7);
          b.hw.take();
          parent.unmap(iova, BigInt(pages) * 0x1000n);
          let at = iova;
          for (const s of b.hw.take()) {
            if (s.what !== 'command' || s.command.op !== 'TLBI_S2_IPA') continue;
            const { num, scale, ttl, tg, address } = s.command;
            expect(tg).toBe(1);
            expect(num === 0 && scale === 0 && ttl === 0).toBe(false);
            if (ttl === 2) expect(address % 0x20_0000n).toBe(0n);
            expect(address).toBe(at);
            at += BigInt((num + 1) * 2 ** scale) * 0x1000n;
          }
          // One page of unknown kind is asked for as two.
          const end = iova + BigInt(pages) * 0x1000n;
          expect(at === end || at === end + 0x1000n).toBe(true);
        },
      ),
    );
  });

  test('the last device gone, the VMID is flushed at once', () => {
    const { parent, hw, detach, device, attach, viommu } = bench();
    const dev = device('nic', [SID]);
    const p = parent(dev);
    const d = viommu(dev, p).nested(0x9n, 0n);
    if (typeof d === 'number') throw new Error('refused');
    attach(dev, d);
    hw.take();
    detach(dev);
    expect(hw.ops()).toMatch(/TLBI_S12_VMALL \|$/);
  });

  test('with nobody attached is nobody’s business, and the tables go at once', () => {
    const b = bench();
    const parent = b.parent(b.device('nic', [SID]));
    const used = b.memory.pagesUsed;
    parent.map(0x4000_0000n, 0x100_4000_1000, 0x40_0000, 7);
    b.hw.take();
    expect(parent.unmap(0x4000_0000n, 0x40_0000n)).toBe(0x40_0000n);
    expect(b.hw.take()).toEqual([]);
    expect(b.memory.pagesUsed).toBeLessThanOrEqual(used + 2);
    parent.free();
    expect(b.hw.take()).toEqual([]);
  });

  test('mapping into free space needs nothing', () => {
    const { parent, hw } = mapped();
    parent.map(0xc000_0000n, 0x100_c000_0000, 0x1000, 7);
    expect(hw.take()).toEqual([]);
  });

  test('tables are given back only after the hardware was told', () => {
    const { parent, hw, memory } = mapped();
    parent.map(0xc000_0000n, 0x100_c000_1000, 0x20_0000, 7);
    const used = memory.pagesUsed;
    let atInvalidation = 0;
    hw.refuse = () => {
      atInvalidation = memory.pagesUsed;
      return HW_ERROR.NONE;
    };
    parent.unmap(0xc000_0000n, 0x20_0000n);
    expect(atInvalidation).toBe(used);
    expect(memory.pagesUsed).toBe(used - 1);
  });
});

test('memory that runs out in a map leaves the range as it was', () => {
  const b = bench({ pages: 9 });
  const dev = b.device('nic', [SID]);
  const parent = b.parent(dev);
  expect(parent.map(0x4000_0000n, 0x100_0000_1000, 0x4000_0000, 7)).toBe(-12);
  for (let i = 0; i < 64; i++) expect(parent.iovaToPhys(0x4000_0000n + BigInt(i) * 0x100_0000n)).toBe(-1);
});
