export type { CachedTranslation } from '../lib/cache/listing.ts';
export type { Smmuv3Features } from '../lib/check/smmuv3-features.ts';
export { VMSA_ARCHITECTURE, type VmsaChoices } from '../lib/walk/vmsa-choices.ts';
export { PhysicalSmmuv3, type PhysicalSmmuv3Data, type Smmuv3Controls } from './smmuv3/device.ts';
export type { CacheSizes, PhysicalSmmuv3Options, StreamTableLocation } from './smmuv3/options.ts';
export { PhysicalVtd, type PhysicalVtdData, type PhysicalVtdOptions } from './vtd/device.ts';
export { FULL_CAP, FULL_ECAP } from './vtd/options.ts';
