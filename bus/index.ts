export { Bridge, type BridgeKind, type BridgeOptions } from './bridge.ts';
export type { BusListener, BusMessage } from './bus-message.ts';
export { ConfigPorts, Ecam } from './config-access.ts';
export type { IommuPorts, Root } from './root.ts';
export {
  type Latency,
  type PlugListener,
  type PlugOptions,
  RootComplex,
  type RootComplexDeps,
} from './root-complex.ts';
export { isolationGroup, PciBus, Slot } from './topology.ts';
