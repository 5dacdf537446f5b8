import { PciWindowSpace } from '../../bus/decode.ts';
import { vtdProperties } from '../../devices/vtd/properties.ts';
import { putBehind } from './behind-unit.ts';
import { windowOf } from './physical-map.ts';
import { Q35 } from './q35.ts';
import type { QemuIommuParts } from './qemu-iommus.ts';
import type { IommuUnit } from './unit.ts';
import { VtdUnit } from './vtd-unit.ts';

/**
 * Puts the vVT-d of the command line (`-device intel-iommu`) in its place: one unit over every root bus.
 * @throws ViommuError `E_PROFILE` for a property it does not know.
 */
export function attachVtd(p: QemuIommuParts): readonly IommuUnit[] {
  const { vm, board, roots, irq, args, profile, tell, report } = p;
  const properties = vtdProperties(args, profile);
  if (properties === null) return [];
  const unit = new VtdUnit(vm, { name: 'vtd', properties, irq, tell });
  // Peers in the PCI hole are reached through both stages like memory is; where nothing is, the request aborts.
  const low = Math.max(...vm.memory.ram().map((r) => (r.gpa < Q35.ABOVE ? r.gpa + r.bytes : 0)));
  const hole = new PciWindowSpace(board.complex, { base: low, bytes: Q35.IOAPIC - low, unclaimed: 0 });
  vm.addWindow(low, Q35.IOAPIC - low, windowOf(hole));
  board.map.attach(Q35.VTD, unit.window, 8);
  // QEMU's test device writes into the interrupt window without naming itself; messages of MSI capabilities do.
  board.likeQemu = properties.profile === 'qemu-11.1';
  board.complex.anonymousWrites = board.likeQemu;
  for (const root of roots.values()) {
    putBehind(vm, { complex: board.complex, root, unit, doorbell: -1, report });
  }
  if (board.ioapic !== null) board.ioapic.remap = unit.remap;
  unit.endpoints.to = board.complex.everywhere;
  return [unit];
}
