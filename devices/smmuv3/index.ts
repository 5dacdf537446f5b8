export { type AttachedDevice, LINE, LINE_NAMES, type Smmuv3Deps } from './deps.ts';
export { Smmuv3 } from './device.ts';
export { type Identity, identityOf } from './identity.ts';
export {
  DEVIATIONS,
  type DeviationName,
  type Deviations,
  deviationsOf,
  PROFILES,
  type ProfileName,
} from './profile.ts';
export { defaultProperties, type Smmuv3Properties, smmuv3Properties } from './properties.ts';
