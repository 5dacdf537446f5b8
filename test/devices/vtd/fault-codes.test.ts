import { describe, expect, test } from 'vitest';
import { Guest, WRITE } from './guest.ts';

const RID = 0x10;
const NOWHERE = 0xf0_0000_0000n;
const legacy = { root: 0x30_0000, context: 0x30_1100, l4: 0x30_2000, l3: 0x30_3000, l2: 0x30_4000, l1: 0x30_5000 };
const scalable = { context: 0x31_0200, dir: 0x31_1000, pasid: 0x31_2000 };
const LEAF = legacy.l1 + 5 * 8;

/** Tables of a guest that maps page 5 to 0x400000; `flags` of every entry. */
function pages(g: Guest, flags: bigint): void {
  g.store(legacy.l4, BigInt(legacy.l3) | flags);
  g.store(legacy.l3, BigInt(legacy.l2) | flags);
  g.store(legacy.l2, BigInt(legacy.l1) | flags);
  g.store(LEAF, 0x40_0000n | flags);
}

function legacyGuest(options = ''): Guest {
  const g = new Guest(options);
  g.store(legacy.root, 0x30_1001n, 0n);
  g.store(legacy.context, 0x30_2001n, 0x502n);
  pages(g, 3n);
  return g;
}

function scalableGuest(options: string, pgtt: bigint, flags: bigint): Guest {
  const g = new Guest(options);
  g.store(legacy.root, 0x31_0001n, 0n);
  g.store(scalable.context, 0x31_1001n, 0n, 0n, 0n);
  g.store(scalable.dir, 0x31_2001n);
  const second = pgtt === 2n ? 0x30_2000n : 0n;
  g.store(scalable.pasid, 0x9n | (pgtt << 6n) | second, 5n, pgtt === 1n ? 0x30_2000n : 0n, 0n, 0n, 0n, 0n, 0n);
  pages(g, flags);
  return g;
}
const first = (): Guest => scalableGuest('scalable-mode=on,fsts=on,pasid-bits=8', 1n, 7n);
const second = (): Guest => scalableGuest('scalable-mode=on', 2n, 3n);

/** Level 2 and leaf. */
function both2(g: Guest, l2: bigint, leaf: bigint): void {
  g.store(legacy.l2, l2);
  g.store(LEAF, leaf);
}

type Case = readonly [what: string, change: (g: Guest) => unknown, reason: number, iova?: number, root?: bigint];

function check(make: () => Guest, rtaddr: bigint, cases: readonly Case[]): void {
  test.each(cases.map((c) => [c[0], c] as const))('%s', (_what, c) => {
    const [, change, reason, iova = 0x5000, root = rtaddr] = c;
    const g = make();
    const vfio = g.host.vfio(RID);
    g.vtd.addDevice({ rid: RID, vfio });
    change(g);
    g.translateOn(root);
    const out = g.host.dma(RID, -1, iova, WRITE);
    const page = BigInt(iova) & 0xffff_ffff_ffff_f000n;
    if (reason === 0) expect([out >= 0, g.fault()]).toEqual([true, [0, 0n, 0n]]);
    else if (reason < 0) expect([out, g.fault()]).toEqual([-1, [0, 0n, 0n]]);
    else expect([out, g.fault()]).toEqual([-1, [2, page, 0x8000_0000_0000_0010n | (BigInt(reason) << 32n)]]);
  });
}

const SILENT = -1;
/** The change, and the leaf gone. */
const both = (change: (g: Guest) => void) => (g: Guest) => {
  change(g);
  g.store(LEAF, 0n);
};

describe('a qemu-11.1 guest in legacy mode finds the fault QEMU 11.1.3 records', () => {
  check(legacyGuest, 0x30_0000n, [
    ['nothing wrong', () => {}, 0],
    ['root not present', (g) => g.store(legacy.root, 0n), 1],
    ['context not present', (g) => g.store(legacy.context, 0n), 2],
    ['AW=3', (g) => g.store(legacy.context, 0x30_2001n, 0x503n), 3],
    ['AW=1 walks three levels', (g) => g.store(legacy.context, 0x30_3001n, 0x501n), 0],
    ['TT=1 without device-iotlb', (g) => g.store(legacy.context, 0x30_2005n), 3],
    ['TT=3', (g) => g.store(legacy.context, 0x30_200dn), 3],
    ['TT=2 passes through', (g) => g.store(legacy.context, 0x30_2009n), 0],
    ['input beyond 48 bits', () => {}, 4, 2 ** 48 + 0x5000],
    ['input beyond 39 bits with AW=1', (g) => g.store(legacy.context, 0x30_3001n, 0x501n), 4, 2 ** 39 + 0x5000],
    ['leaf not present', (g) => g.store(LEAF, 0n), 5],
    ['leaf read-only', (g) => g.store(LEAF, 0x40_0001n), 5],
    ['level 2 read-only', (g) => g.store(legacy.l2, 0x30_5001n), 5],
    ['root table unreadable', () => {}, 8, 0x5000, NOWHERE],
    ['context table unreadable', (g) => g.store(legacy.root, NOWHERE | 1n), 9],
    ['second-stage root unreadable', (g) => g.store(legacy.context, NOWHERE | 1n), 3],
    ['root reserved bit', (g) => g.store(legacy.root, 0x30_1003n), 0xa],
    ['root high half', (g) => g.store(legacy.root, 0x30_1001n, 1n), 0xa],
    ['context reserved bit 4', (g) => g.store(legacy.context, 0x30_2011n), 0xb],
    ['context reserved bit 88', (g) => g.store(legacy.context, 0x30_2001n, 0x100_0502n), 0xb],
    ['leaf TM', (g) => g.store(LEAF, 0x40_0003n | (1n << 62n)), 0xc],
    ['leaf SNP', (g) => g.store(LEAF, 0x40_0803n), 0xc],
    ['leaf bit 52 is ignored', (g) => g.store(LEAF, 0x40_0003n | (1n << 52n)), 0],
    ['leaf address beyond the width', (g) => g.store(LEAF, 0x40_0003n | (1n << 50n)), 0xc],
    ['misaligned 1 GiB page', (g) => g.store(legacy.l3, 0x1083n), 0xc],
    ['FPD, leaf not present', both((g) => g.store(legacy.context, 0x30_2003n)), SILENT],
    ['FPD, context reserved', (g) => g.store(legacy.context, 0x30_2013n), 0xb],
    ['leaf in the interrupt window', (g) => g.store(LEAF, 0xfee0_0003n), 0xe],
    ['leaf outside RAM just fails', (g) => g.store(LEAF, 0x8000_0003n), SILENT],
    ['permission comes before a reserved bit of the same entry', (g) => g.store(LEAF, 0x40_0801n), 5],
    ['permission of an upper entry comes before reserved bits below', (g) => both2(g, 0x30_5001n, 0x40_0803n), 5],
    ['a reserved bit comes before the permission of a lower entry', (g) => both2(g, 0x30_5803n, 0n), 0xc],
  ]);
});

describe('a qemu-11.1 guest with first-stage tables finds the fault QEMU 11.1.3 records', () => {
  const pe = scalable.pasid;
  check(first, 0x30_0400n, [
    ['nothing wrong', () => {}, 0],
    ['root not present', (g) => g.store(legacy.root, 0n), 1],
    ['root reserved', (g) => g.store(legacy.root, 0x31_0003n), 0xa],
    ['context not present', (g) => g.store(scalable.context, 0n), 2],
    ['context FPD, not present', (g) => g.store(scalable.context, 2n), SILENT],
    ['context reserved q0 bit 5', (g) => g.store(scalable.context, 0x31_1021n), 0xb],
    ['context reserved q2', (g) => g.store(scalable.context + 16, 1n), 0xb],
    ['directory unreadable', (g) => g.store(scalable.context, NOWHERE | 1n), 0x50],
    ['directory not present', (g) => g.store(scalable.dir, 0n), 0x51],
    ['directory FPD, not present', (g) => g.store(scalable.dir, 2n), 0x51],
    ['PASID table unreadable', (g) => g.store(scalable.dir, NOWHERE | 1n), 0x58],
    ['PASID entry empty: its PGTT is looked at first', (g) => g.store(pe, 0n), 0x5b],
    ['PASID entry not present, PGTT fine', (g) => g.store(pe, 0x48n), 0x59],
    ['PASID entry not present, FPD', (g) => g.store(pe, 0x4an), 0x59],
    ['PGTT nested', (g) => g.store(pe, 0xc9n), 0x5b],
    ['PGTT second stage with fsts', (g) => g.store(pe, 0x30_2089n), 0x5b],
    ['PGTT pass-through', (g) => g.store(pe, 0x109n), 0],
    ['PGTT reserved', (g) => g.store(pe, 0x149n), 0x5b],
    ['five levels', (g) => g.store(pe + 16, 0x30_2004n), 0x5b],
    ['PASID entry q0 bit 9 is not looked at', (g) => g.store(pe, 0x249n), 0],
    ['PASID entry q3 is not looked at', (g) => g.store(pe + 24, 1n), 0],
    ['RID_PASID is ignored', (g) => g.store(scalable.context + 8, 0x4000n), 0],
    ['leaf not present', (g) => g.store(LEAF, 0n), 0x71],
    ['level 3 not present', (g) => g.store(legacy.l3, 0n), 0x71],
    ['leaf read-only', (g) => g.store(LEAF, 0x40_0005n), 0x85],
    ['leaf supervisor', (g) => g.store(LEAF, 0x40_0003n), 0x81],
    ['level 2 supervisor', (g) => g.store(legacy.l2, 0x30_5003n), 0x81],
    ['non-canonical', () => {}, 0x80, 2 ** 47 + 0x5000],
    ['not canonical in the 30 bits of AW=0', (g) => [g.store(pe, 0x41n), g.store(legacy.l4, 0x87n)], 0x80, 0x4000_8000],
    ['within the 30 bits of AW=0', (g) => [g.store(pe, 0x41n), g.store(legacy.l4, 0x87n)], 0x72],
    ['table unreadable', (g) => g.store(pe + 16, NOWHERE), 0x73],
    ['level 3 table unreadable', (g) => g.store(legacy.l4, NOWHERE | 7n), 0x70],
    ['leaf address beyond the width', (g) => g.store(LEAF, 0x40_0007n | (1n << 50n)), 0x72],
    ['leaf bit 52 is ignored', (g) => g.store(LEAF, 0x40_0007n | (1n << 52n)), 0],
    ['leaf XD is ignored', (g) => g.store(LEAF, 0x40_0007n | (1n << 63n)), 0],
    ['leaf in the interrupt window', (g) => g.store(LEAF, 0xfee0_0007n), 0x87],
    ['misaligned 2 MiB page', (g) => g.store(legacy.l2, 0x60_2087n), 0x72],
    ['U/S of an upper entry comes before presence below', (g) => both2(g, 0x30_5003n, 0n), 0x81],
    ['1 GiB page', (g) => g.store(legacy.l3, 0x87n), 0],
    ['PASID entry FPD, leaf missing', both((g) => g.store(pe, 0x4bn)), SILENT],
  ]);
});

describe('a qemu-11.1 guest with scalable second stage finds the fault QEMU 11.1.3 records', () => {
  const pe = scalable.pasid;
  check(second, 0x30_0400n, [
    ['nothing wrong', () => {}, 0],
    ['leaf missing', (g) => g.store(LEAF, 0n), 5],
    ['SNP in a leaf is allowed', (g) => g.store(LEAF, 0x40_0803n), 0],
    ['first stage without fsts', (g) => g.store(pe, 0x49n), 0x5b],
    ['AW=1 walks three levels', (g) => g.store(pe, 0x30_3085n), 0],
    ['AW=3', (g) => g.store(pe, 0x30_208dn), 0x5b],
    ['table unreadable', (g) => g.store(pe, NOWHERE | 0x89n), 3],
    ['input beyond 48 bits', () => {}, 4, 2 ** 48 + 0x5000],
    ['leaf in the interrupt window', (g) => g.store(LEAF, 0xfee0_0003n), 0x87],
    ['PASID entry not present, PGTT=0', (g) => g.store(pe, 0n), 0x5b],
    ['PASID entry not present, PGTT=2', (g) => g.store(pe, 0x88n), 0x59],
  ]);
});
