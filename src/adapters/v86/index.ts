export { V86_VERSION } from './internals.ts';
export { plugIntoV86, V86_LAYOUT, type V86Machine, type V86Options } from './machine.ts';
