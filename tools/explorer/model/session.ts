import { ViommuError } from '../../../src/core/errors.ts';
import { type GuestWalk, LANE, smmuv3GuestWalk, ToldHistory, vtdGuestWalk } from '../../../src/history/index.ts';
import { type Finding, Sanitizer } from '../../../src/sanitize/index.ts';
import {
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
import { Parked } from './parked.ts';
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

/** A recording that has been replayed once: its events, its moments, and machines that stand at some of its events. */
export class TraceSession {
  readonly file: string;
  readonly header: TraceHeader;
  readonly events: readonly TraceEvent[];
  readonly moments: MomentColumns;
  /** The comparison of replay and recording; null: guest memory was not recorded, and nothing was replayed. */
  readonly result: ReplayResult | null;
  readonly rows: TimelineRows;
  readonly #make: () => Parked;
  readonly #checkpoints: Checkpoints | null;
  #findings: Finding[] | null = null;

  private constructor(
    trace: OpenTrace,
    events: readonly TraceEvent[],
    moments: MomentColumns,
    opened: Parked | null,
    { make, replay = {} }: TraceSessionOptions,
  ) {
    this.file = trace.file;
    this.header = trace.header;
    this.events = events;
    this.moments = moments;
    this.result = opened?.replay.finish() ?? null;
    this.rows = timelineRows(moments, trace.header);
    const ram = trace.header.ram.reduce((sum, r) => sum + r.size, 0);
    this.#make = () => new Parked(trace.header, make, replay);
    this.#checkpoints = opened === null ? null : new Checkpoints(this.#make, events, ram, [opened]);
  }

  /**
   * Replays a recording - one without guest memory is only read - and keeps what happened.
   * @throws ViommuError for what is no recording, one of a machine that is not known, and one with too many events.
   */
  static async open(trace: OpenTrace, options: TraceSessionOptions): Promise<TraceSession> {
    const { header, file } = trace;
    const lacking = !hasMemory(header);
    /** What the machine did with the access at hand, where that is not what was recorded. */
    let got = '';
    let history: ToldHistory | null = null;
    const machine = (): Parked =>
      new Parked(
        header,
        options.make,
        { ...options.replay, tellHardware: true },
        {
          tell: (said) => history?.tell(said),
          keep: MOST_DIFFERENCES,
          differs(d) {
            if (d.column === 'translations' || d.column === 'faults') got = d.got;
          },
        },
      );
    const parked = lacking ? null : built(trace, machine);
    const moments = new MomentColumns();
    const subjects = new Subjects(header);
    history = new ToldHistory(header, parked?.target ?? null, (m) => {
      const differs = got !== '' && m.lane === LANE.ACCESSES;
      moments.push(differs ? { ...m, args: { ...m.args, got } } : m, subjects.of(m));
    });
    const events: TraceEvent[] = [];
    for await (const batch of trace.batches) {
      for (const e of batch) {
        try {
          history.before(e);
          parked?.step(e);
          history.after();
          got = '';
        } catch (cause) {
          throw located(file, e.i, cause);
        }
        events.push(e);
      }
      if (events.length > MOST_EVENTS)
        throw new ViommuError(
          'E_TRACE_FORMAT',
          'trace',
          `${file}: more than ${MOST_EVENTS} events, the most that is shown`,
        );
      await options.progress?.(events.length);
    }
    // The machine stays, and nobody follows what it does any more.
    history = null;
    return new TraceSession(trace, events, moments, parked, options);
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
