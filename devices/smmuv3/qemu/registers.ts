import type { RegisterSpec, RegisterTable } from '../../../src/core/registers.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';

const ALL = 0xffff_ffff_ffff_ffffn;
/** Registers that QEMU lets a guest read, and write, with one 8-byte access. */
export const QEMU_WIDE_READ: readonly number[] = [
  PAGE0.GERROR_IRQ_CFG0.at,
  PAGE0.STRTAB_BASE.at,
  PAGE0.CMDQ_BASE.at,
  PAGE0.EVENTQ_BASE.at,
];
export const QEMU_WIDE_WRITE: readonly number[] = [...QEMU_WIDE_READ, PAGE0.EVENTQ_IRQ_CFG0.at];
/** What a reset of QEMU's device leaves alone. */
export const QEMU_KEPT: readonly RegisterSpec[] = [
  PAGE0.CR1,
  PAGE0.CR2,
  PAGE0.STRTAB_BASE,
  PAGE0.STRTAB_BASE_CFG,
  PAGE0.GERROR_IRQ_CFG0,
  PAGE0.GERROR_IRQ_CFG1,
  PAGE0.GERROR_IRQ_CFG2,
  PAGE0.EVENTQ_IRQ_CFG0,
  PAGE0.EVENTQ_IRQ_CFG1,
  PAGE0.EVENTQ_IRQ_CFG2,
  // Their addresses; the size goes to its preset.
  PAGE0.CMDQ_BASE,
  PAGE0.EVENTQ_BASE,
];

/** Every writable register keeps every bit; EVENTQ_IRQ_CFG is kept and reads 0; there is no page-request queue. */
export function qemuRegisterTable(table: RegisterTable): RegisterTable {
  const rows = Object.entries(table).map(([name, r]): [string, RegisterSpec] => {
    if (r.rw === undefined || name === 'GBPA') return [name, { at: r.at, size: r.size, reset: r.reset ?? 0n }];
    const hidden = name.startsWith('EVENTQ_IRQ_CFG') ? { wo: ALL } : {};
    return [name, { at: r.at, size: r.size, reset: r.reset ?? 0n, rw: ALL, ...hidden }];
  });
  return Object.fromEntries(rows);
}
