import { acpiTable, type Maker, TableBytes, VIOMMU_MAKER } from './table.ts';

/** One ECAM window: 1 MiB per bus from `firstBus` to `lastBus`. */
export interface EcamWindow {
  readonly base: number;
  readonly segment?: number;
  readonly firstBus: number;
  readonly lastBus: number;
}

/** The table that tells where ECAM is (PCI Firmware Specification §4.1.2). */
export function mcfg(windows: readonly EcamWindow[], maker: Maker = VIOMMU_MAKER): Uint8Array {
  const body = new TableBytes().zeros(8);
  for (const w of windows)
    body
      .u64(w.base)
      .u16(w.segment ?? 0)
      .u8(w.firstBus)
      .u8(w.lastBus)
      .u32(0);
  return acpiTable('MCFG', 1, body.done(), maker);
}
