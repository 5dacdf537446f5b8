export type { VtdFunction, VtdHost } from './deps.ts';
export { RegisterUnit, type RegisterUnitDeps } from './device.ts';
export { VTD_DEVIATIONS, type VtdDeviationName, type VtdDeviations } from './profile.ts';
export { checkProperties, defaultProperties, type VtdProperties, vtdFromArgs } from './properties.ts';
export { Vtd, type VtdDeps } from './vtd.ts';
