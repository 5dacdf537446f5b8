import type { Drive, LiveState, Run } from './explorer.ts';
import { Client } from './explorer.ts';
import type { LiveMachine } from './machine.ts';

/** Milliseconds between two looks at what is new. */
const REFRESH = 250;
/** How long a step waits for its moment (milliseconds). */
const PATIENCE = 15_000;

/** What a live page shows, beside the recording so far. */
export interface LiveShown {
  readonly run: Run;
  readonly drives: Drive;
  readonly held: number;
  /** In the last second. */
  readonly accesses: number;
  readonly commands: number;
  readonly consoleLines: number;
  readonly error: string;
  /** Somebody waits for it to stand still, or for a step. */
  readonly busy: boolean;
  /** A moment to look at; -1: none. */
  readonly goTo: number;
}

/** A running machine and the worker that follows it. */
export class LiveRun {
  readonly client = new Client();
  readonly machine: LiveMachine;
  readonly #show: (shown: LiveShown) => void;
  #shown: LiveShown | null = null;
  #busy = false;
  #timer: ReturnType<typeof setInterval> | null = null;
  #counts: { readonly at: number; readonly accesses: number; readonly commands: number }[] = [];

  constructor(machine: LiveMachine, show: (shown: LiveShown) => void) {
    this.machine = machine;
    this.#show = show;
  }

  /** What is shown now. */
  get shown(): LiveShown | null {
    return this.#shown;
  }

  /** @throws Error the worker does not take it. */
  async begin(): Promise<void> {
    const { name, header } = this.machine;
    const run = await this.client.ask('begin', { name, header });
    this.#put({
      run,
      drives: 'run',
      held: 0,
      accesses: 0,
      commands: 0,
      consoleLines: 0,
      error: '',
      busy: false,
      goTo: -1,
    });
    this.#timer = setInterval(() => void this.#refresh(), REFRESH);
  }

  close(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.client.close();
  }

  #put(shown: LiveShown): void {
    this.#shown = shown;
    this.#show(shown);
  }

  async #feed(): Promise<void> {
    const text = this.machine.take();
    if (text !== '') await this.client.ask('feed', text);
  }

  async #refresh(): Promise<void> {
    if (this.#busy || this.#shown?.busy === true) return;
    this.#busy = true;
    try {
      await this.#feed();
      this.#heard(await this.client.ask('look', null));
    } catch (e) {
      this.#fail(e as Error);
    } finally {
      this.#busy = false;
    }
  }

  #fail(e: Error): void {
    if (this.#shown !== null) this.#put({ ...this.#shown, error: e.message });
  }

  #heard({ run, drives, held, failed }: LiveState, goTo = this.#shown!.goTo): void {
    const shown = run ?? this.#shown!.run;
    const lane = (name: string) => shown.rows.reduce((sum, r) => sum + (r.lane === name ? r.count : 0), 0);
    const now = performance.now();
    this.#counts.push({ at: now, accesses: lane('accesses'), commands: lane('commands') });
    while (this.#counts.length > 2 && this.#counts[0]!.at < now - 1000) this.#counts.shift();
    const [first, last] = [this.#counts[0]!, this.#counts.at(-1)!];
    const seconds = Math.max(0.2, (last.at - first.at) / 1000);
    this.#put({
      run: shown,
      drives,
      held,
      accesses: Math.round((last.accesses - first.accesses) / seconds),
      commands: Math.round((last.commands - first.commands) / seconds),
      consoleLines: this.machine.console?.length ?? 0,
      error: failed || this.machine.error,
      busy: false,
      goTo,
    });
  }

  #wait(): void {
    if (this.#shown !== null) this.#put({ ...this.#shown, busy: true });
  }

  /** Goes on. */
  async go(): Promise<void> {
    this.#heard(await this.client.ask('drive', 'run'), -1);
    await this.machine.go();
  }

  /** Stands still, machine and view. */
  async pause(): Promise<void> {
    this.#wait();
    await this.machine.halt();
    await this.#feed();
    this.#heard(await this.client.ask('drive', 'pause'));
  }

  /** Goes on to the next command or access, and no further. @returns false: none came. */
  async step(to: 'command' | 'access'): Promise<boolean> {
    this.#wait();
    await this.machine.halt();
    const end = performance.now() + PATIENCE;
    let state = await this.client.ask('drive', to);
    while (state.drives !== 'pause' && !this.machine.ended && performance.now() < end) {
      await this.machine.little();
      await this.#feed();
      // The worker parses what it is fed in its own time.
      await new Promise((r) => setTimeout(r, 10));
      const next = await this.client.ask('look', null);
      state = { ...next, run: next.run ?? state.run };
    }
    const found = state.drives === 'pause';
    if (!found) state = { ...(await this.client.ask('drive', 'pause')), run: state.run };
    const run = state.run ?? this.#shown!.run;
    this.#heard(state, found ? last(run, to === 'command' ? 'commands' : 'accesses') : -1);
    return found;
  }

  /** A DMA write to an address that nobody mapped, and what comes of it. @returns the outcome, a DMA value. */
  async stray(): Promise<number> {
    const outcome = this.machine.stray!();
    await this.pause();
    const shown = (await this.client.ask('drive', 'run')).run ?? this.#shown!.run;
    const state = await this.client.ask('drive', 'pause');
    const { run } = { run: state.run ?? shown };
    this.#heard({ ...state, run }, last(run, 'accesses'));
    return outcome;
  }
}

/** The last moment of a lane; -1: there is none. */
function last(run: Run, lane: string): number {
  for (let n = run.moments - 1; n >= 0; n--) if (run.rows[run.row[n]!]!.lane === lane) return n;
  return -1;
}
