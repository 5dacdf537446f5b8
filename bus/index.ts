export { Bridge, type BridgeKind, type BridgeOptions } from './bridge.ts';
export type { BusListener, BusMessage } from './bus-message.ts';
export { ConfigPorts, Ecam } from './config-access.ts';
export type { Latency } from './fabric.ts';
export { type IommuPorts, Untranslated } from './iommu-ports.ts';
export { isolationGroup } from './isolation.ts';
export { type PlugListener, type PlugOptions, RootComplex, type RootComplexDeps } from './root-complex.ts';
export { PciBus, Root, Slot } from './topology.ts';
