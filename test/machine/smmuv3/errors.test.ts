import { describe, expect, test } from 'vitest';
import { HW_ERROR, type HwPort } from '../../../src/ports/hw.ts';
import { cmdOp, OP } from '../../../src/spec/smmuv3/commands.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { CD, cfgiCd, cfgiSte, NOWHERE, nhVa, RAM, STRTAB, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, type RigOptions, space } from './rig.ts';

const PAGE = 0x4040_5000;
const EVENTQ_PROD = 0x100a8;

/** Between kernel and hardware: refuses the commands it is told to. */
class Faulty implements HwPort {
  refuse: (words: Int32Array, at: number) => boolean = () => false;
  done = 0;
  error: number = HW_ERROR.NONE;
  pending = 0;
  readonly #hw: HwPort;

  constructor(hw: HwPort) {
    this.#hw = hw;
  }

  readRegister(offset: number): bigint {
    return this.#hw.readRegister(offset);
  }

  writeRegister(offset: number, value: bigint): void {
    this.#hw.writeRegister(offset, value);
  }

  writeEntry(table: number, entry: number, word: number, lo: number, hi: number): void {
    this.#hw.writeEntry(table, entry, word, lo, hi);
  }

  submit(words: Int32Array, start: number, count: number): void {
    for (let i = 0; i < count; i++) {
      if (!this.refuse(words, start + 4 * i)) continue;
      if (i > 0) this.#hw.submit(words, start, i);
      this.done = i;
      this.error = HW_ERROR.ILLEGAL;
      this.pending = 0;
      return;
    }
    this.#hw.submit(words, start, count);
    this.done = this.#hw.done;
    this.error = this.#hw.error;
    this.pending = this.#hw.pending;
  }
}

function running(o: RigOptions = {}) {
  let faulty: Faulty | null = null;
  const rig = new Rig({
    ...o,
    wrapHw: (hw) => {
      faulty = new Faulty(hw);
      return faulty;
    },
  });
  const { g } = rig;
  const { tables, ste } = space(g, 0, 0x11);
  tables.map(0x5000, PAGE);
  rig.plug(8);
  g.ste(8, ste);
  g.setUp(5, 3, 8);
  g.run(cfgiSte(8), sync);
  return { rig, g, tables, ste, hw: faulty! as Faulty };
}

describe('what a guest sees of a failing host or hardware', () => {
  test('a command the hardware refuses is CERROR_ILL at that command; those before it are in force, those behind are not', () => {
    const { rig, g, tables, hw } = running();
    const pages = [0x5000, 0x6000, 0x7000];
    for (const p of pages) tables.map(p, PAGE);
    for (const p of pages) expect(rig.dma(8, p)).toBe(PAGE);
    for (const p of pages) tables.unmap(p);
    hw.refuse = (w, at) => cmdOp(w[at]!) === OP.TLBI_NH_VA && w[at + 2] === 0x6000;
    expect(g.run(...pages.map((p) => nhVa(0, 0x11, p)), sync)).toBe(0x0100_0003);
    expect(pages.map((p) => rig.dma(8, p))).toEqual(['ABORT', PAGE, PAGE]);
    hw.refuse = () => false;
    g.w(PAGE0.GERRORN.at, 1);
    expect(g.r(PAGE0.CMDQ_CONS.at) & 0xffffff).toBe(6);
    expect(pages.map((p) => rig.dma(8, p))).toEqual(['ABORT', 'ABORT', 'ABORT']);
  });

  test('a host without memory for another context refuses CFGI_STE, and the stream stays what it was', () => {
    const { rig, g } = running({ limits: { tablePages: 4096 } });
    while (rig.vm.hostMemory.allocate() >= 0);
    // The guest asks for a second VMID: that takes another nest parent.
    expect(rig.dma(8, 0x5000)).toBe(PAGE);
    g.ste(8, space(g, 0, 0x11).ste, 0, 7);
    expect(g.run(cfgiSte(8), sync)).toBe(0x0100_0002);
    expect(rig.dma(8, 0x5000)).toBe(PAGE);
  });
});

describe('a fetch that aborts, for every structure of the guest', () => {
  /** The record's type and its two addresses after one DMA write to `iova`. */
  function recordOf(setUp: (x: ReturnType<typeof running>) => void, properties = {}): [number, bigint, bigint] {
    const x = running({ properties: { profile: 'arch', ...properties } });
    setUp(x);
    expect(x.rig.dma(8, 0x5000)).toBe('ABORT');
    expect(x.g.r(EVENTQ_PROD)).toBe(1);
    const [w0, , w2, w3] = x.g.event(0);
    expect(Number(w0! >> 32n)).toBe(8);
    return [Number(w0! & 0xffn), w2!, w3!];
  }
  const again = (g: ReturnType<typeof running>['g'], set: () => void) => {
    g.w(PAGE0.CR0.at, 0xc);
    set();
    g.w(PAGE0.CR0.at, 0xd);
  };

  test('stream table', () => {
    const r = recordOf(({ g }) => again(g, () => g.w64(PAGE0.STRTAB_BASE.at, BigInt(NOWHERE))));
    expect(r).toEqual([0x03, 0n, BigInt(NOWHERE + 0x200)]);
  });

  test('level-1 stream table, and the level-2 table behind it', () => {
    const twoLevel = (g: ReturnType<typeof running>['g'], base: number) =>
      again(g, () => {
        g.w(PAGE0.STRTAB_BASE_CFG.at, 0x1_0188);
        g.w64(PAGE0.STRTAB_BASE.at, BigInt(base));
      });
    expect(recordOf(({ g }) => twoLevel(g, NOWHERE))).toEqual([0x03, 0n, BigInt(NOWHERE)]);
    const second = recordOf(({ g }) => {
      g.put(STRTAB + 0x8000, BigInt(NOWHERE) | 7n);
      twoLevel(g, STRTAB + 0x8000);
    });
    expect(second).toEqual([0x03, 0n, BigInt(NOWHERE + 0x200)]);
  });

  test('CD', () => {
    const r = recordOf(({ g }) => {
      g.ste(8, BigInt(NOWHERE) | 0xbn);
      g.run(cfgiSte(8), sync);
    });
    expect(r).toEqual([0x09, 0n, BigInt(NOWHERE)]);
  });

  test('level-1 CD table, and the level-2 table behind it', () => {
    const cds = (l1: number) => (BigInt(l1) | 0xbn | (1n << 4n) | (3n << 59n)) as bigint;
    const r = recordOf(
      ({ g }) => {
        g.ste(8, cds(NOWHERE), 2);
        g.run(cfgiSte(8), sync);
      },
      { ssidsize: 8 },
    );
    expect(r).toEqual([0x09, 0n, BigInt(NOWHERE)]);
    const behind = recordOf(
      ({ g }) => {
        g.put(CD + 0x1000, BigInt(NOWHERE) | 1n);
        g.ste(8, cds(CD + 0x1000), 2);
        g.run(cfgiSte(8), sync);
      },
      { ssidsize: 8 },
    );
    expect(behind).toEqual([0x09, 0n, BigInt(NOWHERE)]);
  });

  test.each([1, 2, 3])('stage-1 table of level %i', (level) => {
    const r = recordOf(({ g, tables }) => {
      if (level === 1) g.put(CD + 8, BigInt(NOWHERE));
      else if (level === 2) g.put(tables.root, BigInt(NOWHERE) | 3n);
      else g.put(Number(g.get(tables.root) & 0xf_ffff_ffff_f000n), BigInt(NOWHERE) | 3n);
      g.run(cfgiCd(8), [0x30, 0], sync);
    });
    expect(r).toEqual([0x0b, 0x5000n, BigInt(NOWHERE + (level === 3 ? 40 : 0))]);
  });

  test('stage-2 table of the guest', () => {
    const r = recordOf(({ g }) => {
      g.ste(8, 0xdn, 0n, 0x040c_0059_0000_0007n, BigInt(RAM) + 0x2000_0000n);
      g.run(cfgiSte(8), sync);
    });
    expect(r).toEqual([0x0b, 0x5000n, BigInt(RAM) + 0x2000_0000n]);
  });

  test('command queue', () => {
    const { g } = running();
    g.w64(PAGE0.CMDQ_BASE.at, BigInt(NOWHERE) | 8n);
    g.w(PAGE0.CMDQ_PROD.at, 9);
    expect([g.r(PAGE0.CMDQ_CONS.at), g.r(PAGE0.GERROR.at)]).toEqual([0x0200_0002, 1]);
  });

  test('event queue', () => {
    const { rig, g } = running();
    g.w64(PAGE0.EVENTQ_BASE.at, BigInt(NOWHERE) | 3n);
    rig.dma(8, 0x9000);
    expect([g.r(EVENTQ_PROD), g.r(PAGE0.GERROR.at)]).toEqual([0, 4]);
  });
});

describe('batches over the kernel as it is', () => {
  test.each([62, 63, 64])(
    '%i unmaps before a refused command: the safe rule loses none, the believed count does',
    (n) => {
      for (const quirk of [false, true]) {
        const { rig, g, tables } = running({ batchQuirk: quirk });
        const pages = Array.from({ length: n }, (_, i) => 0x10_0000 + 0x1000 * i);
        for (const p of pages) {
          tables.map(p, PAGE);
          expect(rig.dma(8, p)).toBe(PAGE);
          tables.unmap(p);
        }
        // Somebody in the VMM took the vDEVICE away: the kernel no longer knows the StreamID.
        rig.vm.iommufd.destroy(rig.units[0]!.device.streams[0]!.vdeviceId);
        const cons = g.run(...pages.map((p) => nhVa(0, 0x11, p)), cfgiCd(8), sync);
        expect(cons).toBe(0x0100_0002 + n);
        const stale = pages.filter((p) => rig.dma(8, p) === PAGE).length;
        expect(stale, quirk ? 'Linux issues whole groups of 63 only' : 'safe').toBe(quirk ? n % 63 : 0);
      }
    },
  );
});
