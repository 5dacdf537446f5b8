import { smmuv3Properties } from '../../devices/smmuv3/properties.ts';
import { vtdProperties } from '../../devices/vtd/properties.ts';
import { ViommuError } from '../core/errors.ts';
import { profileNamed } from '../lib/profile/profile.ts';
import { parseQemuArgs } from '../lib/qemu-args/qemu-args.ts';
import type { MakeReplayTarget } from '../trace/index.ts';
import { Smmuv3ReplayMachine } from './replay-smmuv3.ts';
import { VtdReplayMachine } from './replay-vtd.ts';
import { VIRT } from './virt.ts';

const SMMU_BYTES = 0x2_0000;

/** Machine types that can have the IOMMU (versioned names included). */
const MACHINES = { smmuv3: /^virt(-\d.*)?$/, vtd: /^(q35|pc|pc-q35-.*|pc-i440fx-.*)$/ } as const;

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
    return new Smmuv3ReplayMachine(header, properties, options, tell, doorbell);
  }
  const props = vtdProperties(args, profile);
  if (props === null) throw new ViommuError('E_PROFILE', 'trace', 'the command line has no intel-iommu device');
  return new VtdReplayMachine(header, props, options, tell);
};
