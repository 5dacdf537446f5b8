import type { Moment } from '../../src/history/index.ts';
import type { ReplayTarget, TraceEvent, TraceHeader } from '../../src/trace/index.ts';

/** Takes pieces of the exported file, in order. */
export type Write = (piece: string | Uint8Array) => void;

/** What an exporter may look at while a recording is replayed. */
export interface ExportSource {
  readonly file: string;
  readonly header: TraceHeader;
  /** Null: guest memory was not recorded, nothing is replayed. */
  readonly target: ReplayTarget | null;
  /** The name of a function, or its requester id. */
  nameOf(stream: number): string;
}

/** Makes one kind of file of a replayed recording. The parts it leaves out it does not need. */
export interface Exporter {
  /** Each moment, in order. */
  moment?(moment: Moment): void;
  /** Each event, when everything it caused is done. */
  event?(e: TraceEvent): void;
  /** After the last event; what it writes goes out whenever it yields. */
  end?(): Iterable<void>;
}

/** Makes the exporter of one format. */
export type MakeExporter = (source: ExportSource, write: Write) => Exporter;
