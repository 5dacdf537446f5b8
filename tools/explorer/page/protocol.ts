import type { Moment } from '../../../src/history/index.ts';
import type { Finding } from '../../../src/sanitize/index.ts';
import type { Difference, IommuKind, ReplayOptions, TraceDevice } from '../../../src/trace/index.ts';
import type { Changes } from '../model/changes.ts';
import type { Comparison, RunStep } from '../model/compare.ts';
import type { Drive } from '../model/live.ts';
import type { MappedTime, PageReach } from '../model/questions.ts';
import type { WalkView } from '../model/session.ts';
import type { StateView } from '../model/state.ts';
import type { TimelineRow } from '../model/timeline.ts';

/** Where a recording comes from. */
export type Source =
  | { readonly file: Blob & { readonly name: string } }
  | { readonly url: string; readonly name: string };

/** What the page keeps of a recording: enough to draw all of it. */
export interface Run {
  readonly file: string;
  readonly iommu: IommuKind;
  readonly kernel: string;
  readonly scenario: string;
  readonly devices: readonly TraceDevice[];
  readonly events: number;
  readonly moments: number;
  /** Milliseconds from the first byte to here. */
  readonly took: number;
  /** False: guest memory was not recorded, and there are no states. */
  readonly replayed: boolean;
  readonly differing: number;
  readonly differences: readonly Difference[];
  readonly rows: readonly TimelineRow[];
  readonly names: readonly string[];
  /** By number of the moment: row, event, cause (-1: none), name, stream it concerns (-1: none). */
  readonly row: Uint8Array;
  readonly event: Uint32Array;
  readonly cause: Int32Array;
  readonly name: Uint32Array;
  readonly subject: Int32Array;
}

/** A moment, with its words decoded when it is a command. */
export interface MomentView extends Moment {
  readonly decoded: readonly (readonly [name: string, value: string])[];
}

/** The way of an access, and where its address and page are asked about. */
export interface AccessView {
  readonly stream: number;
  readonly iova: string;
  /** Guest page it arrived at, `0x…`; '': it did not. */
  readonly page: string;
  /** Null: guest memory was not recorded. */
  readonly walk: WalkView | null;
}

/** How a machine that is still running stands. */
export interface LiveState {
  /** What there is to draw by now; null: nothing that was not there at the last look. */
  readonly run: Run | null;
  readonly drives: Drive;
  /** Events that have arrived and are not shown. */
  readonly held: number;
  /** Why nothing more can be shown; '': it goes on. */
  readonly failed: string;
}

/** What the worker answers, by question: [what it is asked with, what it says]. */
export interface Questions {
  /** `states`: states will be asked for, and are to be quick. */
  readonly open: [{ readonly source: Source; readonly replay: ReplayOptions; readonly states: boolean }, Run];
  /** A machine that is still running: the first line of its recording, then more of it, as it happens. */
  readonly begin: [{ readonly name: string; readonly header: string }, Run];
  readonly feed: [string, null];
  readonly drive: [Drive, LiveState];
  readonly look: [null, LiveState];
  readonly moments: [readonly number[], MomentView[]];
  readonly access: [{ readonly event: number }, AccessView | null];
  readonly state: [{ readonly event: number; readonly opened: readonly string[] }, StateView];
  readonly changes: [{ readonly a: number; readonly b: number }, Changes];
  readonly find: [string, Int32Array];
  readonly complete: [string, string[]];
  readonly findings: [null, readonly Finding[]];
  /** `pasid` -1: accesses without one. */
  readonly whoMaps: [{ readonly iova: string; readonly pasid: number }, MappedTime[]];
  readonly whoReaches: [{ readonly address: string; readonly event: number }, PageReach];
  readonly steps: [null, readonly RunStep[]];
  readonly compare: [readonly RunStep[], Comparison];
  /** How many machines stand ready; asks until all do. */
  readonly ready: [null, boolean];
}

/** Name of a question. */
export type QuestionName = keyof Questions;

/** A question on its way to the worker. */
export interface Asked {
  readonly id: number;
  readonly what: QuestionName;
  readonly with: unknown;
}

/** What comes back: the answer, why there is none, or how far opening has got. */
export type Answered =
  | { readonly id: number; readonly answer: unknown }
  | { readonly id: number; readonly error: string }
  | { readonly id: number; readonly events: number; readonly part: number };
