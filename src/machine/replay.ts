import { smmuv3Properties } from '../../devices/smmuv3/properties.ts';
import { vtdProperties } from '../../devices/vtd/properties.ts';
import { ViommuError } from '../core/errors.ts';
import { profileNamed } from '../lib/profile/profile.ts';
import { parseQemuArgs } from '../lib/qemu-args/qemu-args.ts';
import type { Tell } from '../ports/tell.ts';
import type { MakeReplayTarget, TraceHeader } from '../trace/index.ts';
import { ReplayMachine } from './replay-machine.ts';
import { ReplayedSmmuv3 } from './replay-smmuv3.ts';
import { ReplayedVtd } from './replay-vtd.ts';
import { VIRT } from './virt.ts';
import { Vm } from './vm.ts';

const SMMU_BYTES = 0x2_0000;

/** Machine types that can have the IOMMU (versioned names included). */
const MACHINES = { smmuv3: /^virt(-\d.*)?$/, vtd: /^(q35|pc|pc-q35-.*|pc-i440fx-.*)$/ } as const;

function vmOf(header: TraceHeader, tell: Tell): Vm {
  return new Vm({ ram: header.ram.map((r) => ({ base: r.gpa, bytes: r.size })), tell });
}

/**
 * Stands up the machine of a recording.
 * @throws ViommuError `E_PROFILE` what its command line asks for is not known; `EINVAL` no such profile.
 */
export const makeReplayMachine: MakeReplayTarget = (header, options, tell) => {
  const args = parseQemuArgs(header.cmdline);
  const profile = profileNamed(options.profile ?? 'qemu-11.1');
  const { kind } = args.machine;
  if (!MACHINES[header.iommu].test(kind)) {
    throw new ViommuError('E_PROFILE', 'trace', `the command line's machine type '${kind}' has no ${header.iommu}`);
  }
  if (header.iommu === 'smmuv3') {
    const units = smmuv3Properties(args, profile);
    // `-M virt,iommu=smmuv3` has one place; `-device arm-smmuv3` go side by side from another.
    const alone = units.length === 1 || header.mmio.base === VIRT.SMMU;
    const n = alone ? 0 : (header.mmio.base - VIRT.SMMU_DEVICES) / SMMU_BYTES;
    const properties = units[n];
    if (properties === undefined) {
      throw new ViommuError('E_PROFILE', 'trace', 'the command line has no SMMUv3 at the recorded address', {
        base: header.mmio.base,
      });
    }
    // Messages go to GICv2m's frame where the machine has one, else to the ITS.
    const v2m = args.machine.props.get('gic-version') === '2';
    const doorbell = v2m ? VIRT.V2M : VIRT.DOORBELL - (VIRT.DOORBELL % 4096);
    const vm = vmOf(header, tell);
    return new ReplayMachine(vm, new ReplayedSmmuv3({ vm, properties, options, tell, doorbell }), header);
  }
  const properties = vtdProperties(args, profile);
  if (properties === null) throw new ViommuError('E_PROFILE', 'trace', 'the command line has no intel-iommu device');
  const vm = vmOf(header, tell);
  return new ReplayMachine(vm, new ReplayedVtd({ vm, properties, options, tell }), header);
};
