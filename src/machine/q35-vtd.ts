import { PciWindowSpace } from '../../bus/decode.ts';
import type { Root } from '../../bus/topology.ts';
import { vtdProperties } from '../../devices/vtd/properties.ts';
import type { ProfileName } from '../lib/profile/profile.ts';
import type { QemuArgs } from '../lib/qemu-args/qemu-args.ts';
import type { InterruptPort } from '../ports/irq.ts';
import type { Tell } from '../ports/tell.ts';
import type { Board } from './board.ts';
import { FunctionFollower, windowOf } from './function-follower.ts';
import { Q35 } from './q35.ts';
import type { IommuUnit } from './unit.ts';
import type { Vm } from './vm.ts';
import { VtdUnit } from './vtd-unit.ts';

/**
 * Puts the vVT-d of the command line (`-device intel-iommu`) in its place: one unit over every root bus.
 * @throws ViommuError `E_PROFILE` for a property it does not know.
 */
export function attachVtd(
  vm: Vm,
  board: Board,
  roots: ReadonlyMap<string, Root>,
  irq: InterruptPort,
  args: QemuArgs,
  options: { readonly profile: ProfileName; readonly tell?: Tell | null },
): readonly IommuUnit[] {
  const properties = vtdProperties(args, options.profile);
  if (properties === null) return [];
  const unit = new VtdUnit(vm, { name: 'vtd', properties, irq, tell: options.tell ?? null });
  // Peers in the PCI hole are reached through both stages like memory is; where nothing is, the request aborts.
  const low = Math.max(...vm.memory.ram().map((r) => (r.gpa < Q35.ABOVE ? r.gpa + r.bytes : 0)));
  const hole = new PciWindowSpace(board.complex, low, Q35.IOAPIC - low, 0);
  vm.addWindow(low, Q35.IOAPIC - low, windowOf(hole));
  board.map.attach(Q35.VTD, unit.window, 8);
  // QEMU's test device writes into the interrupt window without naming itself; messages of MSI capabilities do.
  board.complex.anonymousWrites = options.profile === 'qemu-11.1';
  for (const root of roots.values()) {
    board.setIommu(
      { translate: unit.translate, ats: unit.ats, remap: unit.remap, permits: (hpa) => vm.memory.gpaOf(hpa) >= 0 },
      root,
    );
    new FunctionFollower(board.complex, root, unit, -1);
  }
  if (board.ioapic !== null) board.ioapic.remap = unit.remap;
  unit.endpoints.to = board.complex.everywhere;
  return [unit];
}
