export { type AttachedDevice, LINE, LINE_NAMES, type Smmuv3Deps } from './deps.ts';
export { Smmuv3 } from './device.ts';
export { type Smmuv3Identity, smmuv3Identity } from './identity.ts';
export { SMMUV3_DEVIATIONS, type Smmuv3DeviationName, type Smmuv3Deviations, smmuv3Deviations } from './profile.ts';
export { checkSmmuv3Properties, type Smmuv3Properties, smmuv3Defaults, smmuv3Properties } from './properties.ts';
export { smmuv3Help } from './property-help.ts';
export type { Smmuv3State } from './state-form.ts';
