import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Bridge } from '../../../bus/bridge.ts';
import { Accelerator } from '../../../devices/endpoints/accelerator.ts';
import { DmaEngine } from '../../../devices/endpoints/dma-engine.ts';
import { IommuTestdev } from '../../../devices/endpoints/iommu-testdev.ts';
import { RamDisk } from '../../../devices/endpoints/nvme/disk.ts';
import { NvmeFunction } from '../../../devices/endpoints/nvme/function.ts';
import { ViommuError } from '../../../src/core/errors.ts';
import { parseQemuArgs } from '../../../src/lib/qemu-args/qemu-args.ts';
import { createQemuMachine } from '../../../src/machine/qemu-machine.ts';
import { EXT, SRIOV_CAP } from '../../../src/spec/pcie/capabilities.ts';
import { KINDS, probe, Rig } from '../plugged/rig.ts';
import { corruption } from './corrupt.ts';

/** How many corruptions of each machine: more by the environment. */
const RUNS = Number(process.env.VIOMMU_STATE_CORRUPTIONS ?? 100);
const SEED = Number(process.env.VIOMMU_STATE_SEED ?? 21);

interface Saver {
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

const MACHINES: readonly [string, () => Saver][] = [
  ...KINDS.map((kind) => [`a machine with a ${kind} and every function`, () => plugged(kind)] as [string, () => Saver]),
  ['virt with an SMMUv3', () => qemu('-M virt,iommu=smmuv3 -m 64')],
  ['q35 with a VT-d', () => qemu('-machine q35 -m 64 -device intel-iommu,intremap=on')],
];

describe.each(MACHINES)('%s', (_, make) => {
  test('refuses a state with one field changed by the name of a field and stays as it is, or is that state', () => {
    const machine = make();
    // Virtual functions come to life again in a load, behind the others.
    machine.load(machine.save() as never);
    const good = structuredClone(machine.save());
    let refused = 0;
    fc.assert(
      fc.property(corruption(good), ({ path, state }) => {
        const before = structuredClone(machine.save());
        try {
          machine.load(state as never);
        } catch (e) {
          if (!(e instanceof ViommuError)) throw e;
          expect(['EINVAL', 'E_VERSION'], `${path}: ${e.message}`).toContain(e.code);
          refused++;
          expect(
            typeof e.at.at === 'string' || /functions? at|another machine|with functions/.test(e.message),
            e.message,
          ).toBe(true);
          expect(machine.save(), path).toStrictEqual(before);
          return;
        }
        expect(machine.save(), path).toStrictEqual(state);
      }),
      { numRuns: RUNS, seed: SEED, endOnFailure: true },
    );
    expect(refused).toBeGreaterThan(RUNS / 4);
    machine.load(good as never);
    expect(machine.save()).toEqual(good);
  });
});
