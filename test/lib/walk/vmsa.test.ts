import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { AddressSpace, ramBacking } from '../../../src/lib/memory/address-space.ts';
import { VmsaWalker } from '../../../src/lib/walk/vmsa.ts';
import {
  PERM_WRITE,
  permNeeded,
  type Stage1Regime,
  type Stage2Regime,
  stage1Regime,
  stage1StartLevel,
  stage2Regime,
} from '../../../src/lib/walk/vmsa-regime.ts';
import { ACCESS } from '../../../src/ports/dma.ts';
import { CLASS, EVENT } from '../../../src/spec/smmuv3/events.ts';
import { bump, S1_RW, S2_RW, TableWriter } from '../../support/vmsa-tables.ts';

const RAM = 0x4000_0000;
const R = 1;
const W = 2;

function space(bytes = 4 << 20): AddressSpace {
  const memory = new AddressSpace();
  memory.addRam(RAM, bytes, ramBacking(bytes));
  return memory;
}

function stage1(granule: number, inBits: number, ttb: number, ips = 48): Stage1Regime {
  const s1 = stage1Regime();
  for (const h of [s1.half0, s1.half1]) {
    h.granule = granule;
    h.inBits = inBits;
    h.startLevel = stage1StartLevel(granule, inBits);
    h.outBits = ips;
    h.ttbLo = ttb | 0;
    h.ttbHi = (ttb / 2 ** 32) | 0;
    h.disabled = false;
  }
  return s1;
}

function stage2(granule: number, inBits: number, startLevel: number, ttb: number): Stage2Regime {
  return Object.assign(stage2Regime(), { granule, inBits, startLevel, ttbLo: ttb | 0, ttbHi: (ttb / 2 ** 32) | 0 });
}

const words = (va: bigint): [number, number] => [Number(va & 0xffff_ffffn) | 0, Number((va >> 32n) & 0xffff_ffffn) | 0];

const GRANULES = [12, 14, 16] as const;
const BLOCK_LEVELS: Record<number, readonly number[]> = { 12: [1, 2, 3], 14: [2, 3], 16: [2, 3] };

/** A 39-bit, 4K address space with its writer, walker and regime. */
function small(memory = space()) {
  const tables = new TableWriter(memory, 12, 39, 1, RAM, bump(RAM + 0x10_0000, 4096));
  return { memory, tables, walker: new VmsaWalker(memory), s1: stage1(12, 39, RAM), s2: stage2(12, 39, 1, RAM) };
}

describe('stage 1 alone', () => {
  test('every page and block of every granule and input size translates its first, last and middle byte', () => {
    const memory = space();
    for (const granule of GRANULES) {
      for (let inBits = 25; inBits <= 48; inBits++) {
        for (const level of BLOCK_LEVELS[granule]!) {
          const start = stage1StartLevel(granule, inBits);
          if (level < start) continue;
          for (const upper of [false, true]) {
            memory.locate(RAM);
            memory.words.fill(0);
            const tables = new TableWriter(memory, granule, inBits, start, RAM, bump(RAM + 0x10_0000, 1 << granule));
            const shift = Number(tables.shift(level));
            const size = 1n << BigInt(shift);
            const offset = (1n << BigInt(inBits)) - size; // the last mapping of the range
            const pa = 5 * 2 ** shift;
            tables.map(offset, pa, level);
            const walker = new VmsaWalker(memory);
            const s1 = stage1(granule, inBits, RAM);
            const base = upper ? (0xffff_ffff_ffff_ffffn << BigInt(inBits)) | offset : offset;
            for (const inside of [0n, size - 1n, size / 2n]) {
              const [lo, hi] = words(BigInt.asUintN(64, base) + inside);
              expect(walker.stage1(s1, null, lo, hi, W)).toBe(0);
              expect(walker.out).toBe(pa + Number(inside));
              expect([walker.outShift, walker.guestShift]).toEqual([shift, shift]);
            }
          }
        }
      }
    }
  });

  test('an address outside the input range, or in a disabled half, is a translation fault', () => {
    const { tables, walker, s1 } = small();
    tables.map(0x5000n, 0x8000_0000);
    for (let bit = 39; bit < 64; bit++) {
      const [lo, hi] = words(0x5000n | (1n << BigInt(bit)));
      expect(walker.stage1(s1, null, lo, hi, R)).toBe(EVENT.F_TRANSLATION);
      expect([walker.stage, walker.cls]).toEqual([1, CLASS.IN]);
    }
    s1.half0.disabled = true;
    expect(walker.stage1(s1, null, 0x5000, 0, R)).toBe(EVENT.F_TRANSLATION);
  });

  test('with TBI bits 63:56 do not take part, and bits below still do', () => {
    const { tables, walker, s1 } = small();
    tables.map(0x5000n, 0x8000_0000);
    s1.half0.tbi = true;
    for (let bit = 39; bit < 64; bit++) {
      const [lo, hi] = words(0x5000n | (1n << BigInt(bit)));
      expect(walker.stage1(s1, null, lo, hi, R)).toBe(bit >= 56 ? 0 : EVENT.F_TRANSLATION);
    }
  });

  test('permissions follow AP, XN and inherited table attributes for both privileges', () => {
    const bit = (n: number) => 1n << BigInt(n);
    for (let code = 0; code < 1 << 9; code++) {
      const on = (i: number) => ((code >> i) & 1) === 1;
      const leaf =
        0x400n | (on(0) ? bit(6) : 0n) | (on(1) ? bit(7) : 0n) | (on(2) ? bit(53) : 0n) | (on(3) ? bit(54) : 0n);
      const table = (on(4) ? bit(59) : 0n) | (on(5) ? bit(60) : 0n) | (on(6) ? bit(61) : 0n) | (on(7) ? bit(62) : 0n);
      const had = on(8);
      const { tables, walker, s1 } = small();
      tables.map(0x5000n, 0x8000_0000, 3, leaf, table);
      s1.half0.had = had;
      const inherit = (i: number) => !had && on(i);
      const unpriv = on(0) && !inherit(6);
      const write = !on(1) && !inherit(7);
      const allowed: Record<string, boolean> = {
        r: unpriv,
        w: unpriv && write,
        x: !on(3) && !inherit(5),
        R: true,
        W: write,
        X: !on(2) && !inherit(4) && !(unpriv && write),
      };
      for (const [name, want] of Object.entries(allowed)) {
        const low = name.toLowerCase();
        const access =
          (low === 'r' ? ACCESS.READ : low === 'w' ? ACCESS.WRITE : ACCESS.READ | ACCESS.EXEC) |
          (low === name ? 0 : ACCESS.PRIV);
        const got = walker.stage1(s1, null, 0x5000, 0, permNeeded(access));
        expect(got, `${name} ${code.toString(2)}`).toBe(want ? 0 : EVENT.F_PERMISSION);
      }
    }
  });

  test('WXN forbids executing what can be written, PAN privileged access to unprivileged pages', () => {
    const { tables, walker, s1 } = small();
    tables.map(0x5000n, 0x8000_0000, 3, S1_RW);
    tables.map(0x6000n, 0x8000_0000, 3, 0x400n);
    const ask = (va: number, access: number) => walker.stage1(s1, null, va, 0, permNeeded(access)) === 0;
    expect(ask(0x5000, ACCESS.EXEC)).toBe(true);
    expect(ask(0x6000, ACCESS.EXEC | ACCESS.PRIV)).toBe(true);
    expect(ask(0x5000, ACCESS.READ | ACCESS.PRIV)).toBe(true);
    s1.wxn = true;
    s1.pan = true;
    expect(ask(0x5000, ACCESS.EXEC)).toBe(false);
    expect(ask(0x6000, ACCESS.EXEC | ACCESS.PRIV)).toBe(false);
    expect(ask(0x5000, ACCESS.READ | ACCESS.PRIV)).toBe(false);
    expect(ask(0x6000, ACCESS.READ | ACCESS.PRIV)).toBe(true);
  });

  test('AF = 0 faults, unless AFFD or hardware update; the update lands in memory', () => {
    const { tables, walker, s1 } = small();
    tables.map(0x5000n, 0x8000_0000, 3, S1_RW & ~0x400n);
    expect(walker.stage1(s1, null, 0x5000, 0, R)).toBe(EVENT.F_ACCESS);
    s1.affd = true;
    expect(walker.stage1(s1, null, 0x5000, 0, R)).toBe(0);
    expect(tables.read(tables.slot(0x5000n, 3)) & 0x400n).toBe(0n);
    s1.affd = false;
    s1.ha = true;
    expect(walker.stage1(s1, null, 0x5000, 0, R)).toBe(0);
    expect(tables.read(tables.slot(0x5000n, 3)) & 0x400n).toBe(0x400n);
  });

  test('a write to a clean DBM page makes it dirty; a read grants no write', () => {
    const { tables, walker, s1 } = small();
    tables.map(0x5000n, 0x8000_0000, 3, S1_RW | 0x80n | (1n << 51n));
    expect(walker.stage1(s1, null, 0x5000, 0, W)).toBe(EVENT.F_PERMISSION);
    s1.ha = true;
    s1.hd = true;
    expect(walker.stage1(s1, null, 0x5000, 0, R)).toBe(0);
    expect(walker.perm & PERM_WRITE).toBe(0);
    expect(walker.stage1(s1, null, 0x5000, 0, W)).toBe(0);
    expect(walker.perm & PERM_WRITE).toBe(PERM_WRITE);
    expect(tables.read(tables.slot(0x5000n, 3)) & 0x80n).toBe(0n);
  });

  test('invalid and reserved descriptors fault at their level, outputs beyond the range are address size faults', () => {
    for (let level = 0; level <= 3; level++) {
      for (const [raw, want] of [
        [0n, EVENT.F_TRANSLATION],
        [2n, EVENT.F_TRANSLATION],
        [level === 3 || level === 0 ? 0x401n : 0n, EVENT.F_TRANSLATION],
        [0x1000_0000_0403n, EVENT.F_ADDR_SIZE],
      ] as const) {
        const memory = space(2 << 20);
        const tables = new TableWriter(memory, 12, 48, 0, RAM, bump(RAM + 0x10_0000, 4096));
        const walker = new VmsaWalker(memory);
        tables.write(tables.slot(0x5000n, level), raw);
        expect(walker.stage1(stage1(12, 48, RAM, 44), null, 0x5000, 0, R)).toBe(want);
        expect([walker.stage, walker.level]).toEqual([1, level]);
      }
    }
  });

  test('a table in a hole is an external abort with the address of the descriptor', () => {
    const { walker } = small();
    expect(walker.stage1(stage1(12, 39, 0x800_0000_0000), null, 0x5000, 0, R)).toBe(EVENT.F_WALK_EABT);
    expect([walker.stage, walker.cls, walker.fetch]).toEqual([1, CLASS.TT, 0x800_0000_0000]);
  });

  test('the contiguous hint widens the mapping only where the descriptor fits the joined block', () => {
    const { tables, walker, s1 } = small();
    tables.map(0x13000n, 0x8000_3000, 3, S1_RW | (1n << 52n));
    tables.map(0x14000n, 0x8000_3000, 3, S1_RW | (1n << 52n));
    expect(walker.stage1(s1, null, 0x1_3abc, 0, R)).toBe(0);
    expect([walker.out, walker.outShift]).toEqual([0x8000_3abc, 16]);
    expect(walker.stage1(s1, null, 0x1_4abc, 0, R)).toBe(0);
    expect([walker.out, walker.outShift]).toEqual([0x8000_3abc, 12]);
  });

  test('with 52-bit addresses a 64K granule reaches bits 51:48 of tables and pages', () => {
    const memory = new AddressSpace();
    const far = 2 ** 51 + 0x4000_0000;
    memory.addRam(far, 4 << 20, ramBacking(4 << 20));
    const tables = new TableWriter(memory, 16, 42, 2, far, bump(far + 0x10_0000, 1 << 16));
    tables.map(0x5_0000n, 2 ** 51 + 0x9_0000);
    const walker = new VmsaWalker(memory);
    expect(walker.stage1(stage1(16, 42, far, 52), null, 0x5_1234, 0, R)).toBe(0);
    expect(walker.out).toBe(2 ** 51 + 0x9_1234);
  });
});

describe('stage 2', () => {
  test('concatenated start tables of every size resolve the top of the range', () => {
    for (const granule of GRANULES) {
      for (let start = 0; start <= 3; start++) {
        for (let extra = 0; extra <= 4; extra++) {
          const inBits = granule + (granule - 3) * (4 - start) + extra;
          if (inBits > 48 || inBits < 25) continue;
          const memory = space(8 << 20);
          const tables = new TableWriter(memory, granule, inBits, start, RAM, bump(RAM + 0x40_0000, 1 << granule));
          const ipa = 2 ** inBits - 2 ** granule;
          tables.map(BigInt(ipa), 0x9000_0000, 3, S2_RW);
          const walker = new VmsaWalker(memory);
          const s2 = stage2(granule, inBits, start, RAM);
          expect(walker.stage2(s2, ipa + 0x123, W, CLASS.IN)).toBe(0);
          expect([walker.out, walker.outShift]).toEqual([0x9000_0123, granule]);
          expect(walker.stage2(s2, 2 ** inBits, W, CLASS.IN)).toBe(EVENT.F_TRANSLATION);
          expect([walker.stage, walker.ipa]).toEqual([2, 2 ** inBits]);
        }
      }
    }
  });

  test('S2AP and both XN bits decide; without XNX bit 53 is ignored', () => {
    for (let code = 0; code < 16; code++) {
      for (const xnx of [true, false]) {
        const { tables, walker, s2 } = small(space(2 << 20));
        tables.map(0x5000n, 0x8000_0000, 3, 0x43cn | (BigInt(code & 3) << 6n) | (BigInt(code >> 2) << 53n));
        s2.xnx = xnx;
        const ask = (access: number) => walker.stage2(s2, 0x5000, permNeeded(access), CLASS.IN) === 0;
        expect(ask(ACCESS.READ)).toBe((code & 1) !== 0);
        expect(ask(ACCESS.WRITE)).toBe((code & 2) !== 0);
        const xn = xnx ? code >> 2 : (code >> 2) & 2;
        expect(ask(ACCESS.EXEC)).toBe(xn === 0 || xn === 1);
        expect(ask(ACCESS.EXEC | ACCESS.PRIV)).toBe(xn === 0 || xn === 3);
      }
    }
  });
});

describe('nested', () => {
  /** Guest memory: IPA = PA + OFFSET. */
  const OFFSET = 0x1_0000_0000;

  function nested(s2Level: number) {
    const memory = space(8 << 20);
    const outer = new TableWriter(memory, 12, 40, 1, RAM + 0x20_0000, bump(RAM + 0x21_0000, 4096));
    const size = 2 ** Number(outer.shift(s2Level));
    for (let a = RAM; a < RAM + (8 << 20); a += size) outer.map(BigInt(a + OFFSET), a, s2Level, S2_RW);
    const place = (ipa: number) => ipa - OFFSET;
    const inner = new TableWriter(memory, 12, 39, 1, RAM + OFFSET, bump(RAM + OFFSET + 0x10_0000, 4096), place);
    const walker = new VmsaWalker(memory);
    return { outer, inner, walker, s1: stage1(12, 39, RAM + OFFSET), s2: stage2(12, 40, 1, RAM + 0x20_0000) };
  }

  test('tables and leaves are intermediate addresses; the result is the smaller of both mappings', () => {
    for (const s2Level of [2, 3]) {
      const { inner, walker, s1, s2 } = nested(s2Level);
      inner.map(0x20_0000n, RAM + OFFSET + 0x40_0000, 2);
      inner.map(0x5000n, RAM + OFFSET + 0x7000, 3);
      expect(walker.stage1(s1, s2, 0x21_2345, 0, W)).toBe(0);
      expect(walker.out).toBe(RAM + 0x41_2345);
      expect([walker.guestShift, walker.outShift]).toEqual([21, s2Level === 2 ? 21 : 12]);
      expect(walker.stage1(s1, s2, 0x5678, 0, W)).toBe(0);
      expect([walker.out, walker.guestShift, walker.outShift]).toEqual([RAM + 0x7678, 12, 12]);
    }
  });

  test('a stage-2 fault of a table is CLASS TT with the table descriptor as IPA, of the output CLASS IN', () => {
    const { inner, walker, s1, s2 } = nested(3);
    inner.map(0x5000n, 0x1_8000_0000, 3);
    expect(walker.stage1(s1, s2, 0x5678, 0, R)).toBe(EVENT.F_TRANSLATION);
    expect([walker.stage, walker.cls, walker.ipa]).toEqual([2, CLASS.IN, 0x1_8000_0678]);
    inner.write(inner.slot(0x4000_0000n, 1), 0x1_9000_0003n);
    expect(walker.stage1(s1, s2, 0x4000_5000, 0, W)).toBe(EVENT.F_TRANSLATION);
    expect([walker.stage, walker.cls, walker.ipa]).toEqual([2, CLASS.TT, 0x1_9000_0000]);
    expect([walker.need, walker.tableRead]).toEqual([1, true]);
  });

  test('a write through a page stage 2 holds read-only is a stage-2 permission fault', () => {
    const { inner, outer, walker, s1, s2 } = nested(3);
    inner.map(0x5000n, RAM + OFFSET + 0x7000, 3);
    outer.map(BigInt(RAM + OFFSET + 0x7000), RAM + 0x7000, 3, S2_RW & ~0x80n);
    expect(walker.stage1(s1, s2, 0x5000, 0, R)).toBe(0);
    expect(walker.perm & PERM_WRITE).toBe(0);
    expect(walker.stage1(s1, s2, 0x5000, 0, W)).toBe(EVENT.F_PERMISSION);
    expect([walker.stage, walker.cls]).toEqual([2, CLASS.IN]);
  });

  test('an access flag update of a stage-1 descriptor needs stage-2 write permission for its table', () => {
    const { inner, outer, walker, s1, s2 } = nested(3);
    inner.map(0x5000n, RAM + OFFSET + 0x7000, 3, S1_RW & ~0x400n);
    const slot = inner.slot(0x5000n, 3);
    const page = slot - (slot % 4096);
    outer.map(BigInt(page + OFFSET), page, 3, S2_RW & ~0x80n);
    s1.ha = true;
    expect(walker.stage1(s1, s2, 0x5000, 0, R)).toBe(EVENT.F_PERMISSION);
    expect([walker.stage, walker.cls, walker.ipa, walker.tableRead]).toEqual([2, CLASS.TT, slot + OFFSET, false]);
    outer.map(BigInt(page + OFFSET), page, 3, S2_RW);
    expect(walker.stage1(s1, s2, 0x5000, 0, R)).toBe(0);
    expect(inner.read(slot) & 0x400n).toBe(0x400n);
  });

  test('S2PTW refuses stage-1 tables in device memory', () => {
    const { inner, outer, walker, s1, s2 } = nested(3);
    inner.map(0x5000n, RAM + OFFSET + 0x7000, 3);
    outer.map(BigInt(RAM + OFFSET), RAM, 3, S2_RW & ~0x3cn);
    expect(walker.stage1(s1, s2, 0x5000, 0, R)).toBe(0);
    s2.ptw = true;
    expect(walker.stage1(s1, s2, 0x5000, 0, R)).toBe(EVENT.F_PERMISSION);
    expect([walker.stage, walker.cls]).toEqual([2, CLASS.TT]);
  });
});

test('tables are looked at anew when memory moved, came, went, or belongs to somebody else as well', () => {
  for (const shared of [false, true]) {
    const memory = new AddressSpace();
    let words = new Int32Array(1 << 20);
    // Somebody else's storage: what is there shows in words() only after a fetch of its page.
    const elsewhere = new Int32Array(1 << 20);
    const fetch = (offset: number) => words.set(elsewhere.subarray(offset / 4, offset / 4 + 1024), offset / 4);
    const remove = memory.addRam(RAM, 4 << 20, { words: () => words, ...(shared ? { fetch } : {}) });
    const { tables, walker, s1 } = small(memory);
    const ask = () => (walker.stage1(s1, null, 0x5000, 0, R) === 0 ? walker.out : -1);
    tables.map(0x5000n, 0x8000_0000);
    elsewhere.set(words);
    expect(ask()).toBe(0x8000_0000);
    const at = (tables.slot(0x5000n, 3) - RAM) / 4;
    elsewhere[at] = 0x9000_0c43 | 0;
    expect(ask()).toBe(shared ? 0x9000_0000 : 0x8000_0000);
    words = Int32Array.from(words);
    words[at] = elsewhere[at] = 0xa000_0c43 | 0;
    memory.moved();
    expect(ask()).toBe(0xa000_0000);
    remove();
    expect(ask()).toBe(-1);
  }
});

test('whatever descriptors a guest writes, a walk ends, and its output lies below the limit', () => {
  const memory = space(1 << 20);
  const walker = new VmsaWalker(memory);
  fc.assert(
    fc.property(
      fc.constantFrom(...GRANULES),
      fc.integer({ min: 25, max: 48 }),
      fc.array(fc.tuple(fc.integer(), fc.integer({ min: 0, max: 0x0fff_ffff })), { minLength: 16, maxLength: 16 }),
      fc.integer(),
      fc.integer({ min: 0, max: 0xffff }),
      (granule, inBits, pattern, lo, hi) => {
        memory.locate(RAM);
        const ram = memory.words;
        for (let i = 0; i < 4096; i += 2) {
          const [a, b] = pattern[(i >> 1) % 16]!;
          ram[i] = (a & ~0x7fff_0000) | 0x4000_0000 | 1;
          ram[i + 1] = b & 0xf;
        }
        const fault = walker.stage1(stage1(granule, inBits, RAM), null, lo, hi, R);
        if (fault === 0) expect(walker.out).toBeLessThan(2 ** 48);
        else expect([0x0b, 0x10, 0x11, 0x12, 0x13]).toContain(fault);
      },
    ),
    { numRuns: 300 },
  );
});
