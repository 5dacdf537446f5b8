import { LANE, type Lane } from '../../../src/history/index.ts';
import { type MakeReplayTarget, readTrace, type TraceEvent } from '../../../src/trace/index.ts';
import { TraceSession } from './session.ts';

/** What a step ends at. */
export const STEP_TO = { command: LANE.COMMANDS, access: LANE.ACCESSES } as const satisfies { [to: string]: Lane };
/** A name of `STEP_TO`. */
export type StepTo = keyof typeof STEP_TO;

/** How events that arrive are treated: shown at once, held back, or shown up to the next moment of a lane. */
export type Drive = 'run' | 'pause' | StepTo;

/** Pieces of text that arrive as somebody has them. */
class Pieces implements AsyncIterable<string> {
  readonly #waiting: string[] = [];
  #ended = false;
  #wake: (() => void) | null = null;

  push(text: string): void {
    this.#waiting.push(text);
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<string> {
    for (;;) {
      const next = this.#waiting.shift();
      if (next !== undefined) yield next;
      else if (this.#ended) return;
      else
        await new Promise<void>((done) => {
          this.#wake = done;
        });
    }
  }
}

/**
 * A recording of a machine that is still running: its lines arrive piece by piece, and are replayed as far as whoever watches
 * has gone. Paused, they wait; a step lets them in up to the event that led to a command, or was an access.
 */
export class LiveSession {
  readonly session: TraceSession;
  readonly #pieces: Pieces;
  #held: TraceEvent[] = [];
  #next = 0;
  #drive: Drive = 'run';
  /** Why nothing more can be shown; null: it goes on. */
  #failed: Error | null = null;

  private constructor(session: TraceSession, pieces: Pieces) {
    this.session = session;
    this.#pieces = pieces;
  }

  /** @param file its name. @param header the recording's first line. @throws ViommuError what is no header. */
  static async begin(file: string, header: string, make: MakeReplayTarget): Promise<LiveSession> {
    const pieces = new Pieces();
    pieces.push(`${header.trimEnd()}\n`);
    const trace = await readTrace(file, pieces);
    const live = new LiveSession(new TraceSession(trace, { make }), pieces);
    void live.#read(trace.batches);
    return live;
  }

  async #read(batches: AsyncIterable<readonly TraceEvent[]>): Promise<void> {
    try {
      for await (const batch of batches) {
        for (const e of batch) this.#held.push(e);
        this.#go();
      }
    } catch (e) {
      this.#failed = e as Error;
    }
  }

  /** More of the recording: whole lines or parts of them. */
  feed(text: string): void {
    this.#pieces.push(text);
  }

  /** The machine has ended. */
  end(): void {
    this.#pieces.end();
  }

  /** From now on. @throws Error what went wrong before. */
  drive(drive: Drive): void {
    if (this.#failed !== null) throw this.#failed;
    this.#drive = drive;
    this.#go();
  }

  /** How it is driven; a step that has ended is a pause. */
  get drives(): Drive {
    return this.#drive;
  }

  /** Events that arrived and are not shown. */
  get held(): number {
    return this.#held.length - this.#next;
  }

  get failed(): Error | null {
    return this.#failed;
  }

  #go(): void {
    const { session } = this;
    while (this.#drive !== 'pause' && this.#next < this.#held.length) {
      const from = session.moments.length;
      session.append(this.#held[this.#next++]!);
      if (this.#drive !== 'run' && this.#has(STEP_TO[this.#drive], from)) this.#drive = 'pause';
    }
    if (this.#next === this.#held.length) {
      this.#held = [];
      this.#next = 0;
    }
  }

  #has(lane: Lane, from: number): boolean {
    const { moments } = this.session;
    const wanted = moments.lanes.find(lane);
    for (let n = from; n < moments.length; n++) if (moments.lane.at(n) === wanted) return true;
    return false;
  }
}
