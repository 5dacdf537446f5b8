import { describe, expect, test } from 'vitest';
import type { Smmuv3Properties } from '../../../devices/smmuv3/properties.ts';
import { OP } from '../../../src/spec/smmuv3/commands.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { CMDQ, cfgiAll, Guest, sync, type Words } from './guest.ts';

type Features = Partial<Smmuv3Properties>;
const BARE: Features = { stage: 'nested', msi: false };
const FULL: Features = { stage: 'nested', ats: true, pri: true, stall: true, ssidsize: 4 };
const SSEC = 0x400n;

/** What the queue makes of one command: 0 consumed, else the CERROR. */
function outcome(g: Guest, [lo, hi]: Words): number {
  g.smmu.reset();
  g.put(CMDQ, lo, hi);
  g.w64(PAGE0.CMDQ_BASE.at, BigInt(CMDQ + 2));
  g.w(PAGE0.CR0.at, 8);
  g.w(PAGE0.CMDQ_PROD.at, 1);
  const cons = g.r(PAGE0.CMDQ_CONS.at);
  expect(cons & 0xffff).toBe(cons >>> 24 === 0 ? 1 : 0);
  return cons >>> 24;
}

describe('which commands are illegal follows from the identity registers (IHI 0070 §4.1–§4.7)', () => {
  /** Opcode → whether it is legal, by what the SMMU has. */
  const rules: Record<
    number,
    (f: { s1: boolean; s2: boolean; ats: boolean; pri: boolean; stall: boolean }) => boolean
  > = {
    [OP.PREFETCH_CONFIG]: () => true,
    [OP.PREFETCH_ADDR]: () => true,
    [OP.CFGI_STE]: () => true,
    [OP.CFGI_STE_RANGE]: () => true,
    [OP.CFGI_CD]: (f) => f.s1,
    [OP.CFGI_CD_ALL]: (f) => f.s1,
    [OP.TLBI_NH_ALL]: (f) => f.s1,
    [OP.TLBI_NH_ASID]: (f) => f.s1,
    [OP.TLBI_NH_VA]: (f) => f.s1,
    [OP.TLBI_NH_VAA]: (f) => f.s1,
    [OP.TLBI_S12_VMALL]: (f) => f.s2,
    [OP.TLBI_S2_IPA]: (f) => f.s2,
    [OP.TLBI_NSNH_ALL]: () => true,
    [OP.ATC_INV]: (f) => f.ats,
    [OP.PRI_RESP]: (f) => f.pri,
    [OP.RESUME]: (f) => f.stall,
    [OP.STALL_TERM]: (f) => f.stall,
    [OP.SYNC]: () => true,
  };

  test.each(['1', '2', 'nested'] as const)('every opcode, stage %s, with and without ATS, PRI and stalls', (stage) => {
    for (const more of [{}, { ats: true }, { ats: true, pri: true }, { stall: true }]) {
      const g = new Guest({ profile: 'arch', properties: { stage, ...more } });
      const f = {
        s1: stage !== '2',
        s2: stage !== '1',
        ats: 'ats' in more,
        pri: 'pri' in more,
        stall: 'stall' in more,
      };
      for (let op = 0; op < 256; op++) {
        const legal = rules[op]?.(f) ?? false;
        expect(outcome(g, [op, 0]), `opcode 0x${op.toString(16)} ${JSON.stringify(f)}`).toBe(legal ? 0 : 1);
      }
    }
  });

  test('SSec makes exactly the commands that have it illegal', () => {
    const g = new Guest({ profile: 'arch', properties: FULL });
    const have = new Set<number>([OP.PREFETCH_CONFIG, OP.PREFETCH_ADDR, OP.CFGI_STE, OP.CFGI_STE_RANGE, OP.CFGI_CD]);
    for (const op of [OP.CFGI_CD_ALL, OP.RESUME, OP.STALL_TERM]) have.add(op);
    for (const op of Object.keys(rules).map(Number)) {
      expect(outcome(g, [BigInt(op) | SSEC, 0]), `opcode 0x${op.toString(16)}`).toBe(have.has(op) ? 1 : 0);
    }
    const q = new Guest();
    const cfgi = new Set<number>([OP.CFGI_STE, OP.CFGI_STE_RANGE, OP.CFGI_CD, OP.CFGI_CD_ALL]);
    for (const op of Object.keys(rules).map(Number)) {
      expect(outcome(q, [BigInt(op) | SSEC, 0]), `QEMU, opcode 0x${op.toString(16)}`).toBe(cfgi.has(op) ? 1 : 0);
    }
  });

  test('reserved encodings: SYNC CS=3, PRI_RESP Resp=3, ATC_INV beyond 52 bits, an empty range form', () => {
    const g = new Guest({ profile: 'arch', properties: FULL });
    const q = new Guest();
    const cases: [Words, number, number][] = [
      [[0x3046, 0], 1, 0],
      [[0x41, 0x3000], 1, 0],
      [[0x41, 0x2000], 0, 0],
      [[0x40, 52], 0, 0],
      [[0x40, 53], 1, 0],
      [[0x12, 0x400], 1, 0], // TG=1, NUM=SCALE=TTL=0
      [[0x2a, 0xc00], 1, 0],
      [[0x12, 0x500], 0, 0], // the TTL makes it one page
      [[0x1012n, 0x400], 0, 0], // NUM=1
      [[0x10_0012n, 0x400], 0, 0], // SCALE=1
      [[0x11, 0x400], 0, 0],
    ];
    for (const [command, arch, qemu] of cases) {
      expect(outcome(g, command), `arch ${command}`).toBe(arch);
      expect(outcome(q, command), `QEMU ${command}`).toBe(qemu);
    }
    const noRil = new Guest({ profile: 'arch', properties: { ...BARE, ril: false } });
    expect(outcome(noRil, [0x12, 0x400]), 'TG is reserved without RIL').toBe(0);
  });

  test('reserved bits of a known command are ignored, each of them', () => {
    const g = new Guest({ profile: 'arch', properties: BARE });
    // SYNC without MSI: everything but the opcode and CS.
    for (let bit = 8; bit < 128; bit++) {
      if (bit === 12 || bit === 13) continue;
      const words: Words = bit < 64 ? [0x46n | (1n << BigInt(bit)), 0] : [0x46, 1n << BigInt(bit - 64)];
      expect(outcome(g, words), `bit ${bit}`).toBe(0);
    }
  });

  test('StreamIDs and SubstreamIDs out of range are no errors', () => {
    const g = new Guest({ profile: 'arch', properties: FULL });
    for (const op of [OP.CFGI_STE, OP.CFGI_CD, OP.CFGI_CD_ALL, OP.ATC_INV, OP.PRI_RESP, OP.RESUME, OP.STALL_TERM]) {
      expect(outcome(g, [(0xffff_ffffn << 32n) | 0xffff_f000n | BigInt(op & 0xff), 0]), `opcode ${op}`).toBe(0);
    }
  });
});

describe('the host hears of an entry it cannot take', () => {
  const bad = (g: Guest) => {
    g.plug(8);
    g.ste(8, 7n); // Config 0b011 is an abort; V=1
    g.ste(8, 0n);
    g.setUp();
  };

  test('under arch CFGI_STE never fails for what an entry says: traffic does', () => {
    const g = new Guest({ profile: 'arch' });
    bad(g);
    expect(g.run(cfgiAll, sync)).toBe(2);
    expect(g.smmu.streams[0]!.state).toBe('unset');
  });

  test('QEMU with accel=on refuses the command, QEMU without does not', () => {
    const accel = new Guest({ properties: { accel: true, stage: '1' } });
    bad(accel);
    expect(accel.run(cfgiAll, sync)).toBe(0x0100_0000);
    const plain = new Guest();
    bad(plain);
    expect(plain.run(cfgiAll, sync)).toBe(2);
  });
});

describe('the page request queue (IHI 0070 §8)', () => {
  const LAST = 1 << 30;
  const SSV = 1 << 31;
  const R = 1 << 28;
  const pri = (log2 = 1) => {
    const g = new Guest({ profile: 'arch', properties: FULL });
    const dev = g.plug(8);
    g.setUp();
    g.w(PAGE0.CR0.at, 0);
    g.w64(PAGE0.PRIQ_BASE.at, 0x4050_0000n | BigInt(log2));
    g.w(PAGE0.CR0.at, 0xf);
    g.w(PAGE0.IRQ_CTRL.at, 2);
    const request = (flags: number, group: number, page = 0x7000) =>
      g.host.handlers.get(dev)!.onPageRequest!(dev, 0, Int32Array.of(0x400008, flags, page | group, 0));
    return { g, dev, request };
  };

  test('a request is queued with the guest StreamID, and CMD_PRI_RESP answers its group', () => {
    const { g, dev, request } = pri();
    expect(request(LAST | R, 5)).toBe(true);
    expect([g.get(0x4050_0000), g.get(0x4050_0008)]).toEqual([
      ((BigInt(LAST | R) & 0xffff_ffffn) << 32n) | 8n,
      0x7005n,
    ]);
    expect([g.r(0x100c8), g.interrupts]).toEqual([1, ['priq']]);
    g.run([0x8_0000_0041n, 0x2005], [0x8_0000_0041n, 0x1006], [0x8_0000_3841n, 0x0007], sync);
    expect(g.host.responses).toEqual([
      `${dev} pasid=-1 group=5 code=0`,
      `${dev} pasid=-1 group=6 code=1`,
      `${dev} pasid=3 group=7 code=15`,
    ]);
  });

  test('overflow toggles OVFLG, answers the last of a group with success, drops the others, and lasts until acknowledged', () => {
    const { g, dev, request } = pri();
    g.ste(8, 9n);
    for (let i = 0; i < 2; i++) request(R, i);
    request(R, 2);
    request(LAST | R, 3);
    expect([g.r(0x100c8), g.host.responses]).toEqual([0x8000_0002, [`${dev} pasid=-1 group=3 code=0`]]);
    g.w(0x100cc, 2);
    request(R, 4);
    expect(g.r(0x100c8), 'still overflowing').toBe(0x8000_0002);
    g.w(0x100cc, 0x8000_0002);
    request(R, 5);
    expect(g.r(0x100c8)).toBe(0x8000_0003);
  });

  test.each([
    ['no entry', 0n, 0n, 0, 15],
    ['an entry', 9n, 0n, 0, 0],
    ['an entry, and the request has a PASID', 9n, 0n, 3, 0],
    ['an entry with PPAR, and the request has a PASID', 9n, 1n << 18n, 3, 0],
  ])('overflow, the stream has %s', (_, w0, w1, pasid, code) => {
    const { g, dev, request } = pri();
    g.ste(8, w0, w1);
    for (let i = 0; i < 2; i++) request(R, i);
    request(LAST | R | (pasid === 0 ? 0 : SSV | pasid), 3);
    const repeated = w1 === 0n ? -1 : pasid;
    expect(g.host.responses).toEqual([`${dev} pasid=${repeated} group=3 code=${code}`]);
  });

  test('with the queue off every request is refused without its PASID; a stop marker is never answered', () => {
    const { g, dev, request } = pri();
    g.w(PAGE0.CR0.at, 0xd);
    request(R, 1);
    request(LAST | R, 2);
    request(LAST | SSV, 3);
    request(LAST, 4);
    request(LAST | SSV | R | 3, 5);
    const refused = [1, 2, 4, 5].map((group) => `${dev} pasid=-1 group=${group} code=15`);
    expect(g.host.responses).toEqual(refused);
  });

  test('PRIQ_IRQ_CFG2.LO interrupts at each last request, else the queue does when it was empty', () => {
    for (const lo of [false, true]) {
      const { g, request } = pri(3);
      g.w(PAGE0.IRQ_CTRL.at, 0);
      g.w(PAGE0.PRIQ_IRQ_CFG2.at, lo ? 0x8000_0000 : 0);
      g.w(PAGE0.IRQ_CTRL.at, 2);
      for (let i = 0; i < 4; i++) request((i % 2 === 1 ? LAST : 0) | R, i);
      expect(g.interrupts.length).toBe(lo ? 2 : 1);
    }
  });

  test('a queue that cannot be written is GERROR.PRIQ_ABT_ERR, and takes nothing until acknowledged', () => {
    const { g, dev, request } = pri();
    g.w(PAGE0.CR0.at, 0);
    g.w64(PAGE0.PRIQ_BASE.at, 0x800_0000_0000n);
    g.w(PAGE0.CR0.at, 0xf);
    request(LAST | R, 1);
    request(LAST | R, 2);
    expect([g.r(PAGE0.GERROR.at), g.r(0x100c8)]).toEqual([8, 0]);
    expect(g.host.responses).toEqual([`${dev} pasid=-1 group=1 code=15`, `${dev} pasid=-1 group=2 code=15`]);
  });
});
