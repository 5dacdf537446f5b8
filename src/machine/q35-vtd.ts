import { vtdProperties } from '../../devices/vtd/properties.ts';
import { portsOf, putBehind, recordedPorts } from './behind-unit.ts';
import { BoardWindow } from './board-window.ts';
import { Q35, q35Pci64 } from './q35.ts';
import type { QemuIommuParts } from './qemu-iommus.ts';
import type { IommuUnit } from './unit.ts';
import { VtdUnit } from './vtd-unit.ts';

const PAGE = 4096;
/** The registers of QEMU's unit end here. */
const REGISTER_BYTES = 0x230;

/**
 * Puts the vVT-d of the command line (`-device intel-iommu`) in its place: one unit over every root bus.
 * @throws ViommuError `E_PROFILE` for a property it does not know.
 */
export function attachVtd(p: QemuIommuParts): readonly IommuUnit[] {
  const { vm, board, roots, irq, args, profile, tell, report, record } = p;
  const properties = vtdProperties(args, profile);
  if (properties === null) return [];
  const unit = new VtdUnit(vm, { name: 'vtd', properties, irq, tell });
  board.map.attach(Q35.VTD, unit.window, 8);
  // Whatever the board has besides RAM is reached through both stages like memory is; where nothing is, the request aborts.
  const show = (from: number, to: number) => {
    vm.addWindow(from, to - from, new BoardWindow(board.map, from, Q35.VTD + REGISTER_BYTES, Q35.VTD + PAGE));
  };
  let at = 0;
  for (const { gpa, bytes } of [...vm.memory.ram(), { gpa: Q35.MSI, bytes: 0 }]) {
    if (gpa > at && gpa <= Q35.MSI) show(at, gpa);
    at = gpa + bytes;
  }
  const pci64 = q35Pci64(vm.memory.guest.ram());
  show(pci64.base, pci64.end);
  // QEMU's test device writes into the interrupt window without naming itself; messages of MSI capabilities do.
  board.likeQemu = properties.profile === 'qemu-11.1';
  board.complex.anonymousWrites = board.likeQemu;
  for (const root of roots.values()) {
    const { complex } = board;
    const ports = portsOf(vm, unit);
    const met = record === undefined ? ports : recordedPorts(record, vm, complex, root, ports);
    putBehind(vm, { complex, root, unit, doorbell: -1, report }, met);
  }
  if (board.ioapic !== null) board.ioapic.remap = unit.remap;
  unit.endpoints.to = board.complex.everywhere;
  return [unit];
}
