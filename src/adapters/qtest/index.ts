export { type Channel, parseServerOptions, type ServerOptions } from './options.ts';
export { QmpSession, type QmpTarget } from './qmp.ts';
export { type GuestSpace, QtestSession, type QtestTarget } from './session.ts';
export {
  type Exchange,
  parseTranscript,
  runTranscript,
  type Transcript,
  type TranscriptDifference,
  type TranscriptOutcome,
  tellDifference,
} from './transcript.ts';
