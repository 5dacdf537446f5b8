export { Bridge, type BridgeKind, type BridgeOptions } from './bridge.ts';
export type { BusListener, BusMessage, Routed } from './bus-message.ts';
export { ConfigPorts, type ConfigTarget, Ecam } from './config-access.ts';
export type { Fabric, Latency } from './fabric.ts';
export { type IommuPorts, Untranslated } from './iommu-ports.ts';
export { isolationGroup } from './isolation.ts';
export { PeerWindow } from './peer.ts';
export {
  type PlugListener,
  type PlugOptions,
  RootComplex,
  type RootComplexDeps,
  type RootComplexState,
  type SavedFunction,
} from './root-complex.ts';
export { PciBus, Root, type RootParts, Slot } from './topology.ts';
