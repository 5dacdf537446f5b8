import { smmuv3Properties } from '../../devices/smmuv3/properties.ts';
import { vtdProperties } from '../../devices/vtd/properties.ts';
import { ViommuError } from '../core/errors.ts';
import { profileNamed } from '../lib/profile/profile.ts';
import { parseQemuArgs } from '../lib/qemu-args/qemu-args.ts';
import type { MemoryWindow } from '../ports/memory.ts';
import type { Tell } from '../ports/tell.ts';
import { hasMemory, type MakeReplayTarget, type TraceHeader } from '../trace/index.ts';
import { Q35 } from './q35.ts';
import { ReplayMachine } from './replay-machine.ts';
import { ReplayedSmmuv3 } from './replay-smmuv3.ts';
import { ReplayedVtd } from './replay-vtd.ts';
import { VIRT } from './virt.ts';
import { Vm } from './vm.ts';

const SMMU_BYTES = 0x2_0000;
const PAGE = 4096;
/** 64-bit BARs of either board end here. */
const SPACE = 2 ** 40;
const NOTHING: MemoryWindow = { name: 'nothing', claims: () => false, read: () => 0xffff_ffff, write() {} };

/** Machine types that can have the IOMMU (versioned names included). */
const MACHINES = { smmuv3: /^virt(-\d.*)?$/, vtd: /^(q35|pc|pc-q35-.*|pc-i440fx-.*)$/ } as const;

/** What has a place of its own: messages of VT-d are not translated, and an SMMU's doorbell has its page. */
type Reserved = { readonly gpa: number; readonly size: number };

/**
 * A VM with the RAM of a recording. Everything else below 1 TiB is address space in which no device is left: QEMU translates
 * to it, and it is for the bus to find that nothing answers.
 */
function vmOf(header: TraceHeader, tell: Tell, reserved: Reserved): Vm {
  const vm = new Vm({ ram: header.ram.map((r) => ({ base: r.gpa, bytes: r.size })), tell });
  const taken = [...header.ram, reserved, { gpa: SPACE, size: 0 }].sort((a, b) => a.gpa - b.gpa);
  let at = 0;
  for (const { gpa, size } of taken) {
    if (gpa > at && gpa <= SPACE) vm.addWindow(at, gpa - at, NOTHING);
    at = Math.max(at, gpa + size);
  }
  return vm;
}

/**
 * Stands up the machine of a recording.
 * @throws ViommuError `E_PROFILE` what its command line asks for is not known; `EINVAL` no such profile.
 */
export const makeReplayMachine: MakeReplayTarget = (header, options, tell) => {
  if (!hasMemory(header))
    throw new ViommuError(
      'E_TRACE_FORMAT',
      'trace',
      'guest memory was not recorded ("lacks"): there is nothing to replay',
    );
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
    const vm = vmOf(header, tell, { gpa: doorbell, size: PAGE });
    return new ReplayMachine(vm, new ReplayedSmmuv3({ vm, properties, options, tell, doorbell }), header);
  }
  const properties = vtdProperties(args, profile);
  if (properties === null) throw new ViommuError('E_PROFILE', 'trace', 'the command line has no intel-iommu device');
  const vm = vmOf(header, tell, { gpa: Q35.MSI, size: Q35.MSI_BYTES });
  return new ReplayMachine(vm, new ReplayedVtd({ vm, properties, options, tell }), header);
};
