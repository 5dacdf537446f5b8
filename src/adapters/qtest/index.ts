export { parseServerOptions, type ServerOptions } from './options.ts';
export { QmpSession, type QmpTarget } from './qmp.ts';
export { QtestSession, type QtestTarget } from './session.ts';
export {
  type Difference,
  type Exchange,
  type Outcome,
  parseTranscript,
  runTranscript,
  type Transcript,
  tellDifference,
} from './transcript.ts';
