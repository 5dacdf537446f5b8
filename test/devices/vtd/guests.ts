import { Guest } from './guest.ts';

export const RID = 0x10;
export const ROOT = 0x30_0000;
export const L = { l4: 0x30_2000, l3: 0x30_3000, l2: 0x30_4000, l1: 0x30_5000 };
export const PASIDS = { context: 0x31_0200, dir: 0x31_1000, table: 0x31_2000 };

export function withDevices(g: Guest, ...rids: number[]): Guest {
  for (const rid of rids) g.vtd.addDevice({ rid, vfio: g.host.vfio(rid) });
  return g;
}

/** A legacy guest: domain 5, page 5 → 0x400000, page 6 → 0x401000. */
export function legacy(options = ''): Guest {
  const g = withDevices(new Guest(options), RID);
  g.store(ROOT, 0x30_1001n, 0n);
  g.store(0x30_1100, 0x30_2001n, 0x502n);
  g.store(L.l4, BigInt(L.l3) | 3n);
  g.store(L.l3, BigInt(L.l2) | 3n);
  g.store(L.l2, BigInt(L.l1) | 3n);
  g.store(L.l1 + 40, 0x40_0003n, 0x40_1003n);
  return g;
}

/** A scalable guest whose PASID table has entry 0 as given; first-stage page 5 → 0x400000. */
export function scalable(profile: 'qemu-11.1' | 'arch', options: string, q0: bigint, q1: bigint, q2: bigint): Guest {
  const g = withDevices(new Guest(options, profile), RID);
  g.store(ROOT, 0x31_0001n, 0n);
  g.store(PASIDS.context, 0x31_1009n, 0n, 0n, 0n);
  g.store(PASIDS.dir, BigInt(PASIDS.table) | 1n);
  g.store(PASIDS.table, q0, q1, q2, 0n, 0n, 0n, 0n, 0n);
  g.store(L.l4, BigInt(L.l3) | 7n);
  g.store(L.l3, BigInt(L.l2) | 7n);
  g.store(L.l2, BigInt(L.l1) | 7n);
  g.store(L.l1 + 40, 0x40_0007n, 0x40_1007n);
  return g;
}
export const first = (options = 'scalable-mode=on,fsts=on,pasid-bits=8'): Guest =>
  scalable('qemu-11.1', options, 0x49n, 5n, BigInt(L.l4));
