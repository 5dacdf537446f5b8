export { parseServerOptions, type ServerOptions } from './options.ts';
export { QmpSession, type QmpTarget } from './qmp.ts';
export { QtestSession, type QtestTarget } from './session.ts';
export {
  type Exchange,
  type Outcome,
  parseTranscript,
  runTranscript,
  type Transcript,
  type TranscriptDifference,
  tellDifference,
} from './transcript.ts';
