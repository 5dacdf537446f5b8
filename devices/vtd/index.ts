export { type Deviation, QUIRKS, type Quirks } from './deviations.ts';
export { RegisterUnit, type RegisterUnitDeps } from './device.ts';
export type { VtdFunction, VtdHost } from './host.ts';
export { checkProperties, defaultProperties, type VtdProperties, vtdFromArgs } from './properties.ts';
export { Vtd, type VtdDeps } from './vtd.ts';
