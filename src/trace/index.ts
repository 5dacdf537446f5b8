export type { CachedTranslation } from '../lib/cache/listing.ts';
export {
  type FaultEvent,
  type FrcdEvent,
  NOT_SAID,
  type PageEvent,
  type PageRequestEvent,
  type RemapEvent,
  type StoreEvent,
  type TraceEvent,
  type XlatEvent,
} from './events.ts';
export type { TableFollower } from './followed-pages.ts';
export { hasMemory, type IommuKind, type TraceDevice, type TraceHeader } from './header.ts';
export { Heard, type HeardIrq, type HeardRecord } from './heard.ts';
export { type OpenTrace, readTrace } from './read.ts';
export { type RecordedEvent, type RecordingOf, TraceRecorder } from './recorder.ts';
export { Replay } from './replay.ts';
export { COLUMNS, type Column, type ColumnName, type Difference, type ReplayResult } from './result.ts';
export type { MakeReplayTarget, ReplayOptions, ReplayTarget } from './target.ts';
