import { Bridge } from '../../../bus/bridge.ts';
import { Accelerator } from '../../../devices/endpoints/accelerator.ts';
import { DmaEngine } from '../../../devices/endpoints/dma-engine.ts';
import { IommuTestdev } from '../../../devices/endpoints/iommu-testdev.ts';
import { RamDisk } from '../../../devices/endpoints/nvme/disk.ts';
import { NvmeFunction } from '../../../devices/endpoints/nvme/function.ts';
import { parseQemuArgs } from '../../../src/lib/qemu-args/qemu-args.ts';
import { createQemuMachine } from '../../../src/machine/qemu-machine.ts';
import { EXT, SRIOV_CAP } from '../../../src/spec/pcie/capabilities.ts';
import { KINDS, probe, Rig } from '../plugged/rig.ts';

/** A machine that can be saved. */
export interface Saver {
  save(): unknown;
  load(state: never): void;
}

/** Every kind of function behind an IOMMU of a kind, with virtual ones alive. */
function plugged(kind: (typeof KINDS)[number]): Saver {
  const rig = new Rig(kind);
  const { machine } = rig;
  const port = new Bridge({ kind: 'root', hotplug: true });
  const engine = new DmaEngine({ ats: null, pri: null, pasid: null, virtualFunctions: 2, integrated: true });
  machine.plug(port, 0x08);
  machine.plug(probe({ ats: {}, pri: { capacity: 8 }, pasid: { width: 8 } }), 0, port);
  machine.plug(engine.fn, 0x10);
  machine.plug(new NvmeFunction({ disk: new RamDisk(4096), integrated: true }).fn, 0x18);
  machine.plug(new Accelerator({ integrated: true }).fn, 0x20);
  machine.plug(new IommuTestdev(machine.vm.memory.guest), 0x28);
  const at = engine.fn.config.findExtended(EXT.SRIOV);
  rig.config(0, 0x10, at + SRIOV_CAP.NUM, 2, 2);
  rig.config(0, 0x10, at + SRIOV_CAP.CONTROL, 2, SRIOV_CAP.ENABLE);
  rig.number(0, 0x08, 1);
  return machine;
}

function qemu(line: string): Saver {
  const m = createQemuMachine(parseQemuArgs(line), { nic: true, vga: true });
  m.board!.plugTestdev(0x40);
  m.board!.plug(new NvmeFunction({ disk: new RamDisk(4096), integrated: true }).fn, 0x48);
  return m;
}

/** Machines with everything in them, by name. */
export const MACHINES: readonly [string, () => Saver][] = [
  ...KINDS.map((kind) => [`a machine with a ${kind} and every function`, () => plugged(kind)] as [string, () => Saver]),
  ['virt with an SMMUv3', () => qemu('-M virt,iommu=smmuv3 -m 64')],
  ['q35 with a VT-d', () => qemu('-machine q35 -m 64 -device intel-iommu,intremap=on')],
];
