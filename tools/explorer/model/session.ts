import { ViommuError } from '../../../src/core/errors.ts';
import { type GuestWalk, LANE, smmuv3GuestWalk, ToldHistory, vtdGuestWalk } from '../../../src/history/index.ts';
import { type Finding, Sanitizer } from '../../../src/sanitize/index.ts';
import {
  type Difference,
  hasMemory,
  type MakeReplayTarget,
  type OpenTrace,
  type ReplayOptions,
  type ReplayResult,
  type TraceEvent,
  type TraceHeader,
} from '../../../src/trace/index.ts';
import { built, located } from '../../replay/machine.ts';
import { Checkpoints } from './checkpoints.ts';
import { MomentColumns } from './columns.ts';
import { Parked, type ParkedWatch } from './parked.ts';
import { type StateView, stateOf } from './state.ts';
import { lastStore } from './stores.ts';
import { Subjects } from './subjects.ts';
import { type TimelineRows, timelineRows } from './timeline.ts';

/** Events that are kept at most: a million of them take some 300 MiB. */
const MOST_EVENTS = 1_500_000;

/** Differences between replay and recording that are listed. */
const MOST_DIFFERENCES = 200;

/** An entry on the way of an access, and who stored it last. */
export interface WalkedEntry {
  readonly what: string;
  /** Where it lies (bytes). */
  readonly at: number;
  readonly words: readonly number[];
  /** Number of the moment that stored it last; -1: nothing known. */
  readonly store: number;
}

/** The way of an access through the guest's tables, as they were then. */
export interface WalkView {
  readonly entries: readonly WalkedEntry[];
  /** Guest-physical (bytes); -1: it does not get there. */
  readonly out: number;
  readonly end: string;
}

/** How far opening has got. */
export type Progress = (events: number) => void | Promise<void>;

/** What opening a recording needs, beside it. */
export interface TraceSessionOptions {
  readonly make: MakeReplayTarget;
  readonly replay?: ReplayOptions;
  readonly progress?: Progress;
}

/** A recording that is replayed as it is read: its events, its moments, and machines that stand at some of its events. */
export class TraceSession {
  readonly file: string;
  readonly header: TraceHeader;
  readonly events: TraceEvent[] = [];
  readonly moments = new MomentColumns();
  /** False: guest memory was not recorded, and nothing is replayed. */
  readonly replayed: boolean;
  /** The machine that stands after the last event. */
  readonly #end: Parked | null;
  readonly #make: () => Parked;
  readonly #checkpoints: Checkpoints | null;
  readonly #subjects: Subjects;
  #history: ToldHistory | null = null;
  #result: ReplayResult | null = null;
  #rows: TimelineRows | null = null;
  #findings: Finding[] | null = null;
  /** What the machine did with the access at hand, where that is not what was recorded. */
  #got = '';

  /**
   * A recording of which no event has been read yet.
   * @throws ViommuError for one of a machine that is not known.
   */
  constructor(trace: Pick<OpenTrace, 'file' | 'header'>, { make, replay = {} }: TraceSessionOptions) {
    const { header } = trace;
    this.file = trace.file;
    this.header = header;
    this.replayed = hasMemory(header);
    this.#subjects = new Subjects(header);
    this.#make = () => new Parked(header, make, replay);
    this.#end = this.replayed ? built(this.file, () => this.#watched(make, replay)) : null;
    this.#history = new ToldHistory(header, this.#end?.target ?? null, (m) => {
      const differs = this.#got !== '' && m.lane === LANE.ACCESSES;
      this.moments.push(differs ? { ...m, args: { ...m.args, got: this.#got } } : m, this.#subjects.of(m));
    });
    const ram = header.ram.reduce((sum, r) => sum + r.size, 0);
    this.#checkpoints = this.#end === null ? null : new Checkpoints(this.#make, this.events, ram, [this.#end]);
  }

  /**
   * Replays a recording - one without guest memory is only read - and keeps what happened.
   * @throws ViommuError for what is no recording, one of a machine that is not known, and one with too many events.
   */
  static async open(trace: OpenTrace, options: TraceSessionOptions): Promise<TraceSession> {
    const session = new TraceSession(trace, options);
    for await (const batch of trace.batches) {
      for (const e of batch) session.append(e);
      await options.progress?.(session.events.length);
    }
    session.#finish();
    return session;
  }

  #watched(make: MakeReplayTarget, replay: ReplayOptions): Parked {
    const watch: ParkedWatch = {
      tell: (said) => this.#history?.tell(said),
      keep: MOST_DIFFERENCES,
      differs: (d) => {
        if (d.column === 'translations' || d.column === 'faults') this.#got = d.got;
      },
    };
    return new Parked(this.header, make, { ...replay, tellHardware: true }, watch);
  }

  /** The next event: it is replayed, and its moments are kept. @throws ViommuError what cannot be replayed, or is too much. */
  append(e: TraceEvent): void {
    if (this.events.length === MOST_EVENTS) {
      const what = `${this.file}: more than ${MOST_EVENTS} events, the most that is shown`;
      throw new ViommuError('E_TRACE_FORMAT', 'trace', what);
    }
    const history = this.#history!;
    try {
      history.before(e);
      this.#end?.step(e);
      history.after();
      this.#got = '';
    } catch (cause) {
      throw located(this.file, e.i, cause);
    }
    this.events.push(e);
    this.#rows = null;
    this.#findings = null;
  }

  /** There are no more events. The machine stays, and nobody follows what it does any more. */
  #finish(): void {
    this.#history = null;
    this.#result = this.#end?.replay.finish() ?? null;
  }

  /** The comparison of replay and recording; null: nothing was replayed, or more events may come. */
  get result(): ReplayResult | null {
    return this.#result;
  }

  /** Differences between replay and recording so far. */
  get differing(): number {
    return this.#result?.differing ?? this.#end?.replay.differing ?? 0;
  }

  /** The first of them. */
  get differences(): readonly Difference[] {
    return this.#result?.differences ?? this.#end?.replay.differences ?? [];
  }

  /** Rows of the timeline, and which of them each moment is in. */
  get rows(): TimelineRows {
    this.#rows ??= timelineRows(this.moments, this.header);
    return this.#rows;
  }

  /** The machine as it is before event `n`, valid until the next call. @throws ViommuError `EINVAL` nothing was replayed. */
  machineAt(n: number): Parked {
    if (this.#checkpoints === null)
      throw new ViommuError('EINVAL', 'trace', 'guest memory was not recorded: there is no state to look at');
    return this.#checkpoints.at(Math.max(0, Math.min(n, this.events.length)));
  }

  /** A machine of its own, at the first event. @throws ViommuError `EINVAL` nothing was replayed. */
  freshMachine(): Parked {
    if (this.#checkpoints === null) this.machineAt(0);
    return this.#make();
  }

  /** One step of the work that makes later states quick. @returns false: there is none. */
  mend(): boolean {
    return this.#checkpoints?.mend() ?? false;
  }

  /** Everything there is before event `n`. @param opened nodes of the tree of tables whose children are wanted. */
  state(n: number, opened: readonly string[] = []): StateView {
    return stateOf(this.machineAt(n), this.header, opened);
  }

  /** The way of an access through the guest's tables before event `n`. @param stream of the access. @param lo, hi its address. */
  walk(n: number, stream: number, lo: number, hi: number): WalkView {
    const { target } = this.machineAt(n);
    const walk: GuestWalk = (this.header.iommu === 'smmuv3' ? smmuv3GuestWalk : vtdGuestWalk)(target, stream, lo, hi);
    const entries = walk.steps.map((s) => ({
      what: s.what,
      at: s.at,
      words: [...s.words],
      store: this.#momentOf(lastStore(this.events, n, s.at, s.bytes)),
    }));
    return { entries, out: walk.out, end: walk.end };
  }

  #momentOf(event: number): number {
    if (event < 0) return -1;
    const n = this.moments.firstOf(event);
    return n < this.moments.length && this.moments.lanes.list[this.moments.lane.at(n)] === LANE.MEMORY ? n : -1;
  }

  /** What the driver did wrong. */
  findings(): readonly Finding[] {
    if (this.#findings === null) {
      const sanitizer = new Sanitizer(this.header);
      for (const e of this.events) sanitizer.event(e);
      this.#findings = sanitizer.finish();
    }
    return this.#findings;
  }
}
