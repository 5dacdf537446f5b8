import {
  busWindow,
  device,
  eisaId,
  integer,
  ioPorts,
  ioWindow,
  list,
  memoryFixed,
  memoryWindow,
  methodReturningArg,
  name,
  resources,
} from './aml.ts';
import { acpiTable, type Maker, TableBytes, VIOMMU_MAKER } from './table.ts';

/** Where the ACPI hardware of a PC is (fixed-feature registers, ACPI §4.8). */
export interface PcAcpi {
  readonly sci: number;
  readonly pm1aEvent: number;
  readonly pm1aControl: number;
  readonly pmTimer: number;
  readonly gpe0: number;
}

/** Revision 1 FADT (116 bytes); its FACS and DSDT pointers are zero until a loader links them (ACPI 1.0 §5.2.5). */
export function fadt(p: PcAcpi, maker: Maker = VIOMMU_MAKER): Uint8Array {
  const b = new TableBytes().u32(0).u32(0);
  b.u8(0).u8(0).u16(p.sci).u32(0).u8(0).u8(0).u8(0).u8(0);
  b.u32(p.pm1aEvent).u32(0).u32(p.pm1aControl).u32(0).u32(0).u32(p.pmTimer).u32(p.gpe0).u32(0);
  b.u8(4).u8(2).u8(0).u8(4).u8(4).u8(0).u8(0).u8(0);
  // C2 and C3 latencies beyond the limit: not supported.
  b.u16(0xfff).u16(0xfff).u16(0).u16(0).u8(0).u8(0).u8(0).u8(0).u8(0x32).u8(3).u8(0).u8(0);
  const WBINVD = 1 << 0;
  const PROC_C1 = 1 << 2;
  const SLP_BUTTON = 1 << 5;
  const RTC_S4 = 1 << 7;
  b.u32(WBINVD | PROC_C1 | SLP_BUTTON | RTC_S4);
  return acpiTable('FACP', 1, b.done(), maker);
}

/** FACS: 64 bytes without the common header (§5.2.10). */
export function facs(): Uint8Array {
  return new TableBytes().text('FACS', 4).u32(64).zeros(56).done();
}

/** One CPU, one IOAPIC at GSI 0, level-triggered ISA interrupts 5, 9, 10, 11, and LINT1 as NMI (§5.2.12). */
export function madt(maker: Maker = VIOMMU_MAKER): Uint8Array {
  const b = new TableBytes().u32(0xfee0_0000).u32(1);
  b.u8(0).u8(8).u8(0).u8(0).u32(1);
  b.u8(1).u8(12).u8(0).u8(0).u32(0xfec0_0000).u32(0);
  for (const irq of [5, 9, 10, 11]) b.u8(2).u8(10).u8(0).u8(irq).u32(irq).u16(0xd);
  b.u8(4).u8(6).u8(0xff).u16(0).u8(1);
  return acpiTable('APIC', 1, b.done(), maker);
}

export interface PcieHostBridge {
  /** The 32-bit window for BARs, last byte included. */
  readonly mmio: { readonly base: number; readonly last: number };
  readonly lastBus: number;
  /** Legacy interrupt routing: device number → global interrupts of its pins A to D. */
  readonly intx: readonly { readonly device: number; readonly gsi: readonly [number, number, number, number] }[];
  /** Windows that no driver may take, or Linux does not trust them: ECAM and the IOMMU's registers. */
  readonly reserved: readonly { readonly base: number; readonly bytes: number }[];
}

/** A DSDT with one PCIe host bridge that grants all of `_OSC`, and the reserved windows. */
export function dsdt(h: PcieHostBridge, maker: Maker = VIOMMU_MAKER): Uint8Array {
  const bridge = device('_SB.PCI0', [
    name('_HID', eisaId('PNP0A08')),
    name('_CID', eisaId('PNP0A03')),
    name('_UID', integer(0)),
    name('_SEG', integer(0)),
    name('_BBN', integer(0)),
    methodReturningArg('_OSC', 4, 3),
    name(
      '_CRS',
      resources([
        memoryWindow(h.mmio.base, h.mmio.last),
        memoryWindow(0xa_0000, 0xb_ffff),
        ioWindow(0xd00, 0xffff),
        ioWindow(0, 0xcf7),
        ioPorts(0xcf8, 8),
        busWindow(0, h.lastBus),
      ]),
    ),
    name(
      '_PRT',
      list(
        h.intx.flatMap((d) =>
          d.gsi.map((gsi, pin) =>
            list([integer(d.device * 0x1_0000 + 0xffff), integer(pin), integer(0), integer(gsi)]),
          ),
        ),
      ),
    ),
  ]);
  const reserved = device('_SB.RSVD', [
    name('_HID', eisaId('PNP0C02')),
    name('_UID', integer(1)),
    name('_CRS', resources(h.reserved.map((r) => memoryFixed(r.base, r.bytes)))),
  ]);
  return acpiTable('DSDT', 2, new TableBytes().append(bridge).append(reserved).done(), maker);
}
