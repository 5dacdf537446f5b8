export { type AttachedDevice, LINE, LINE_NAMES, type Smmuv3Deps } from './deps.ts';
export { Smmuv3 } from './device.ts';
export { type Smmuv3Identity, smmuv3Identity } from './identity.ts';
export {
  DEVIATIONS,
  type DeviationName,
  deviationsOf,
  PROFILES,
  type ProfileName,
  type Smmuv3Deviations,
} from './profile.ts';
export { type Smmuv3Properties, smmuv3Defaults, smmuv3Properties } from './properties.ts';
