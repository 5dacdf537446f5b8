import { describe, expect, test } from 'vitest';
import { smmuv3GuestWalk, vtdGuestWalk } from '../../src/history/index.ts';
import { PAGE0 } from '../../src/spec/smmuv3/index.ts';
import { PAGE } from '../../src/spec/vtd/index.ts';
import type { ReplayTarget } from '../../src/trace/index.ts';
import { FakeTarget } from '../trace/fake-target.ts';

/** A machine of which only memory (8-byte words by address) and registers (by offset) are looked at. */
class Tables extends FakeTarget {
  readonly memory = new Map<number, bigint>();
  readonly registers = new Map<number, bigint>();

  constructor() {
    super(() => {});
  }

  override load(gpa: number, into: Uint8Array): boolean {
    const view = new DataView(into.buffer, into.byteOffset, into.length);
    for (let n = 0; n < into.length; n += 8) view.setBigUint64(n, this.memory.get(gpa + n) ?? 0n, true);
    return true;
  }

  override read(offset: number): void {
    const value = this.registers.get(offset) ?? 0n;
    this.lo = Number(BigInt.asIntN(32, value));
    this.hi = Number(BigInt.asIntN(32, value >> 32n));
  }
}

const LEAVES = [0x1111_1000, 0x2222_2000, 0x3333_3000] as const;
const IOVA = 0x0000_7000;
type Walk = (t: ReplayTarget, stream: number, lo: number, hi: number, pasid?: number) => { out: number; end: string };
const to = (walk: Walk, t: ReplayTarget, stream: number, pasid?: number) => {
  const { out, end } = walk(t, stream, IOVA, 0, pasid);
  return end === '' ? out : end;
};

/** Four levels of tables from `base` on whose only leaf maps IOVA; the entries are the same for both architectures' levels. */
function levels(t: Tables, base: number, out: number, table: bigint, leaf: bigint): void {
  for (let level = 0; level < 3; level++)
    t.memory.set(base + level * 0x1000, BigInt(base + (level + 1) * 0x1000) | table);
  t.memory.set(base + 0x3000 + (IOVA >> 12) * 8, BigInt(out) | leaf);
}

describe('SMMUv3: accesses with a SubstreamID', () => {
  const STE = 0x10_0000;
  const CDS = 0x20_0000;
  const L2 = 0x30_0000;
  /** @param fmt S1Fmt. @param dss S1DSS. Contexts of 0, 1 and one that the second table of level 2 has. */
  function machine(fmt: 0 | 1 | 2, dss: 0 | 1 | 2): { t: Tables; far: number } {
    const t = new Tables();
    const far = fmt === 1 ? 64 : fmt === 2 ? 1024 : 2;
    t.registers.set(PAGE0.CR0.at, 1n);
    t.registers.set(PAGE0.STRTAB_BASE.at, BigInt(STE));
    t.registers.set(PAGE0.STRTAB_BASE_CFG.at, 4n);
    // V, Config 5 (stage 1), S1Fmt, S1ContextPtr, S1CDMax 11: 2048 contexts.
    t.memory.set(STE + 3 * 64, 1n | (5n << 1n) | (BigInt(fmt) << 4n) | BigInt(CDS) | (11n << 59n));
    t.memory.set(STE + 3 * 64 + 8, BigInt(dss));
    for (const [n, ssid] of [0, 1, far].entries()) {
      const top = 0x100_0000 + n * 0x10_0000;
      levels(t, top, LEAVES[n]!, 3n, 0x403n);
      let at = CDS + ssid * 64;
      if (fmt > 0) {
        const bits = fmt === 1 ? 6 : 10;
        const table = L2 + (ssid >> bits) * 0x1_0000;
        t.memory.set(CDS + (ssid >> bits) * 8, BigInt(table) | 1n);
        at = table + (ssid & (2 ** bits - 1)) * 64;
      }
      // T0SZ 16, TG0 4 KiB, EPD1, V, IPS 48 bits, AFFD, AA64; then TTB0.
      t.memory.set(at, 16n | (1n << 30n) | (1n << 31n) | (5n << 32n) | (1n << 35n) | (1n << 41n));
      t.memory.set(at + 8, BigInt(top));
    }
    return { t, far };
  }

  test.each([0, 1, 2] as const)(
    'each leads through its own context, whatever the format of the contexts (S1Fmt %i)',
    (fmt) => {
      const { t, far } = machine(fmt, 0);
      expect([0, 1, far].map((ssid) => to(smmuv3GuestWalk, t, 3, ssid))).toEqual(LEAVES);
      expect(to(smmuv3GuestWalk, t, 3)).toMatch(/without a SubstreamID/);
      expect(to(smmuv3GuestWalk, t, 3, far + 1)).toMatch(/not valid/);
      expect(to(smmuv3GuestWalk, t, 3, 2048)).toMatch(/beyond the contexts/);
    },
  );

  test('with S1DSS=2 the first context is that of accesses without one, and of no other', () => {
    const { t } = machine(1, 2);
    expect(to(smmuv3GuestWalk, t, 3)).toBe(LEAVES[0]);
    expect(to(smmuv3GuestWalk, t, 3, 0)).toMatch(/SubstreamID 0/);
    expect(to(smmuv3GuestWalk, t, 3, 1)).toBe(LEAVES[1]);
  });
});

describe('VT-d: requests with a PASID', () => {
  const [ROOT, CONTEXT, DIRECTORY, TABLE] = [0x10_0000, 0x20_0000, 0x30_0000, 0x40_0000];
  /** Entries of PASID 0, 5 and 70; requests without one use PASID 5. */
  function machine(enabled: boolean): Tables {
    const t = new Tables();
    t.registers.set(PAGE.GSTS.at, 1n << 31n);
    t.registers.set(PAGE.RTADDR.at, BigInt(ROOT) | (1n << 10n));
    t.memory.set(ROOT + 2 * 16, BigInt(CONTEXT) | 1n);
    // P, PASIDE, PDTS 0: 128 directory entries; RID_PASID 5.
    t.memory.set(CONTEXT + 8 * 32, BigInt(DIRECTORY) | 1n | (enabled ? 8n : 0n));
    t.memory.set(CONTEXT + 8 * 32 + 8, 5n);
    for (const [n, pasid] of [0, 5, 70].entries()) {
      const top = 0x100_0000 + n * 0x10_0000;
      levels(t, top, LEAVES[n]!, 3n, 3n);
      const table = TABLE + (pasid >> 6) * 0x1000;
      t.memory.set(DIRECTORY + (pasid >> 6) * 8, BigInt(table) | 1n);
      const at = table + (pasid & 63) * 64;
      // P, PGTT first stage only; FSPTPTR.
      t.memory.set(at, 1n | (1n << 6n));
      t.memory.set(at + 16, BigInt(top));
    }
    return t;
  }

  test('each leads through the entry of its PASID; those without one through RID_PASID', () => {
    const t = machine(true);
    expect([0, 5, 70].map((pasid) => to(vtdGuestWalk, t, 0x208, pasid))).toEqual(LEAVES);
    expect(to(vtdGuestWalk, t, 0x208)).toBe(LEAVES[1]);
    expect(to(vtdGuestWalk, t, 0x208, 71)).toMatch(/PASID entry is not present/);
    expect(to(vtdGuestWalk, t, 0x208, 8192)).toMatch(/beyond the directory/);
  });

  test('where the context entry takes no PASIDs, and in legacy mode, they are refused', () => {
    expect(to(vtdGuestWalk, machine(false), 0x208, 5)).toMatch(/PASIDE=0/);
    const legacy = machine(true);
    legacy.registers.set(PAGE.RTADDR.at, BigInt(ROOT));
    expect(to(vtdGuestWalk, legacy, 0x208, 5)).toMatch(/scalable mode/);
  });
});
