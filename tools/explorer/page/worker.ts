import { makeReplayMachine } from '../../../src/machine/replay.ts';
import { changesBetween } from '../model/changes.ts';
import { compareRuns, type RunStep, stepsOf } from '../model/compare.ts';
import { LiveSession } from '../model/live.ts';
import { accessOf, pageOf, whoMaps, whoReaches } from '../model/questions.ts';
import { Search } from '../model/search.ts';
import { TraceSession } from '../model/session.ts';
import { hex } from '../model/streams.ts';
import { decodedCommand } from '../model/subjects.ts';
import type { AccessView, Answered, Asked, LiveState, MomentView, QuestionName, Questions, Run } from './protocol.ts';
import { readSource } from './read-source.ts';

/** Events between two words about how far opening has got. */
const TELL_EVERY = 4000;

interface Scope {
  postMessage(message: Answered, transfer?: Transferable[]): void;
  onmessage: ((e: MessageEvent<Asked>) => void) | null;
}

type Answers = {
  [Q in QuestionName]: (asked: Questions[Q][0], id: number) => Questions[Q][1] | Promise<Questions[Q][1]>;
};

const scope = globalThis as unknown as Scope;
let session: TraceSession | null = null;
let search: Search | null = null;
let rests = false;
/** A machine that is still running, and how many events of it the page has seen. */
let live: LiveSession | null = null;
let shown = 0;

function opened(): TraceSession {
  if (session === null) throw new Error('no recording is open');
  return session;
}

function runOf(s: TraceSession, took: number): Run {
  const { moments: m, header } = s;
  return {
    file: s.file,
    iommu: header.iommu,
    kernel: header.guestKernel,
    scenario: header.scenario,
    devices: header.devices,
    events: s.events.length,
    moments: m.length,
    took,
    replayed: s.replayed,
    differing: s.differing,
    differences: s.differences,
    rows: s.rows.rows,
    names: m.names.list,
    row: s.rows.row,
    event: m.event.copy(),
    cause: m.cause.copy(),
    name: m.name.copy(),
    subject: m.subject.copy(),
  };
}

/** What the page is shown of a machine that is still running. */
function look(): LiveState {
  const { session: s, drives, held, failed } = live!;
  const run = s.events.length === shown ? null : runOf(s, 0);
  shown = s.events.length;
  return { run, drives, held, failed: failed?.message ?? '' };
}

const answers: Answers = {
  async open({ source, replay, states }, id) {
    rests = states;
    const start = performance.now();
    const { trace, part } = await readSource(source);
    let told = 0;
    session = await TraceSession.open(trace, {
      make: makeReplayMachine,
      replay,
      progress(events) {
        if (events - told < TELL_EVERY) return;
        told = events;
        scope.postMessage({ id, events, part: part() });
      },
    });
    search = new Search(session);
    return runOf(session, performance.now() - start);
  },
  async begin({ name, header }) {
    live = await LiveSession.begin(name, header, makeReplayMachine);
    session = live.session;
    search = new Search(session);
    rests = true;
    return runOf(session, 0);
  },
  feed(text) {
    live!.feed(text);
    return null;
  },
  drive(drive) {
    live!.drive(drive);
    return look();
  },
  look,
  moments: (numbers) =>
    numbers.map((n): MomentView => {
      const m = opened().moments.get(n);
      return { ...m, stream: opened().moments.subject.at(n), decoded: decodedCommand(opened().header.iommu, m) };
    }),
  access({ event }): AccessView | null {
    const e = opened().events[event];
    const found = accessOf(e);
    if (found === null) return null;
    const { stream, lo, hi } = found;
    const iova = hex((BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0));
    const page = pageOf(e);
    const walk = !opened().replayed ? null : opened().walk(event, stream, lo, hi);
    return { stream, iova, page: page < 0 ? '' : hex(page), walk };
  },
  state: ({ event, opened: nodes }) => opened().state(event, nodes),
  changes: ({ a, b }) => changesBetween(opened(), a, b),
  find: (query) => search!.find(query),
  complete: (query) => search!.complete(query),
  findings: () => opened().findings(),
  whoMaps: ({ iova, pasid }) => whoMaps(opened(), BigInt(iova), pasid),
  whoReaches: ({ address, event }) => whoReaches(opened(), Number(BigInt(address)), event),
  steps: () => stepsOf(opened()),
  compare: (other: readonly RunStep[]) => compareRuns(stepsOf(opened()), other),
  ready() {
    return session === null || !session.mend();
  },
};

/** Makes later states quick whenever nobody asks for anything. */
function rest(): void {
  try {
    if (rests && session?.mend() === true) setTimeout(rest, 0);
  } catch {
    // There is no memory for another machine: whoever asks waits longer, or is told why there is no answer.
    rests = false;
  }
}

scope.onmessage = async ({ data }) => {
  const { id, what } = data;
  try {
    const answer = await (answers[what] as (asked: unknown, id: number) => unknown)(data.with, id);
    scope.postMessage({ id, answer });
  } catch (e) {
    scope.postMessage({ id, error: e instanceof Error ? e.message : String(e) });
  }
  setTimeout(rest, 0);
};
