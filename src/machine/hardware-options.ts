import { smmuv3Identity } from '../../devices/smmuv3/identity.ts';
import type { Smmuv3Deviations } from '../../devices/smmuv3/profile.ts';
import type { Smmuv3Properties } from '../../devices/smmuv3/properties.ts';
import { vmsaChoicesOf } from '../../devices/smmuv3/qemu/choices.ts';
import type { VtdDeviations } from '../../devices/vtd/profile.ts';
import { vtdWalkChoicesOf } from '../../devices/vtd/qemu/choices.ts';
import type { PhysicalSmmuv3Options } from '../piommu/smmuv3/options.ts';
import { FULL_CAP, FULL_ECAP, type PhysicalVtdOptions } from '../piommu/vtd/options.ts';
import { ADDRESS_BITS } from '../spec/smmuv3/registers.ts';

/** IDR0.S1P and S2P, IDR3.XNX: a host that nests has both stages, whatever the guest is shown. */
const NESTING = 3;
const XNX = 1 << 4;
/** IDR5.OAS for 44 bits: the host's own memory does not end below 2^40, where that of a guest may. */
const HOST_OAS = 4;

/**
 * The physical SMMU that a host needs under a vSMMU: the guest's identification with both stages, and walks that translate
 * what the guest's profile translates. That is all the hardware learns of a profile; how records look and which fault comes
 * first is the device model's own.
 */
export function smmuv3HardwareOf(
  properties: Smmuv3Properties,
  deviations: Smmuv3Deviations,
): Pick<PhysicalSmmuv3Options, 'idr0' | 'idr1' | 'idr3' | 'idr5' | 'aidr' | 'walk'> {
  const { idr0, idr1, idr3, idr5, aidr } = smmuv3Identity(properties, deviations);
  const wide = (idr5 & ~7) | Math.max(idr5 & 7, HOST_OAS);
  // Without the limit a first stage would reach what the guest's OAS does not.
  const walk = { ...vmsaChoicesOf(deviations), outputLimit: ADDRESS_BITS[idr5 & 7]! };
  return { idr0: idr0 | NESTING, idr1, idr3: idr3 | XNX, idr5: wide, aidr, walk };
}

/**
 * The physical unit that a host needs under a vVT-d: one with everything, whatever the guest is shown, whose walks write the
 * flags and know the widths that the guest's profile does.
 */
export function vtdHardwareOf(
  deviations: VtdDeviations,
): Pick<PhysicalVtdOptions, 'cap' | 'ecap' | 'walk' | 'narrowFirstStages' | 'ridPasidRequests'> {
  return {
    cap: FULL_CAP,
    ecap: FULL_ECAP,
    walk: vtdWalkChoicesOf(deviations),
    narrowFirstStages: deviations.canonicalByAw,
    ridPasidRequests: deviations.ridPasidRequested,
  };
}
