export type { VtdDeps, VtdFunction } from './deps.ts';
export { Vtd } from './device.ts';
export { type VtdIdentity, vtdIdentity } from './identity.ts';
export type { VtdInterruptPort } from './interrupt-remapper.ts';
export { GlobalPasids, type PairingListener } from './pasid-modes.ts';
export { VTD_DEVIATIONS, type VtdDeviationName, type VtdDeviations, vtdDeviations } from './profile.ts';
export { checkVtdProperties, type VtdProperties, vtdDefaults, vtdProperties } from './properties.ts';
export { vtdHelp } from './property-help.ts';
export type { VtdState } from './state-form.ts';
