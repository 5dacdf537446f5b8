import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { History, type Moment } from '../../src/history/index.ts';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { Heard, Replay, type TraceHeader } from '../../src/trace/index.ts';
import { loadTrace, openTrace } from '../../src/trace/node.ts';
import { session } from '../../tools/cli/session.ts';
import { explainTrace } from '../../tools/commands/explain.ts';
import { joined, mappingLines } from '../../tools/explain/guest.ts';
import { leavesOf, rangesOf, Words } from '../../tools/explorer/model/paging.ts';
import { TraceSession } from '../../tools/explorer/model/session.ts';
import { type StateView, streamsOf } from '../../tools/explorer/model/state.ts';
import type { TreeNode } from '../../tools/explorer/model/tree.ts';

const FOLDER = 'guest-fixtures/recordings';
const RECORDINGS = process.env.VIOMMU_EXPLORER_RECORDINGS?.split(',') ?? [
  'smmuv3-boot',
  'smmuv3-guest-two-level',
  'vtd-boot',
  'vtd-v86-nested',
];

function pathOf(name: string): string {
  return join(FOLDER, `${name}.ndjson.gz`);
}

async function sessionOf(name: string): Promise<TraceSession> {
  return TraceSession.open(await openTrace(pathOf(name)), { make: makeReplayMachine });
}

/** What `viommu explain --all` says before an event. */
async function explained(name: string, at: number): Promise<string[]> {
  const lines: string[] = [];
  const io = { out: (line: string) => void lines.push(line), err() {} };
  await explainTrace(pathOf(name), makeReplayMachine, {}, at, true, session(io, {}));
  return lines;
}

/** The part of a listing between its heading and the next empty line. */
function part(lines: readonly string[], heading: RegExp): string[] {
  const at = lines.findIndex((l) => heading.test(l));
  const end = lines.indexOf('', at);
  return lines.slice(at + 1, end < 0 ? undefined : end);
}

function registers(state: StateView): string[] {
  return state.registers
    .filter((r) => r.value !== '0x0')
    .map(({ name, value, fields }) => {
      const set = fields.filter((f) => f.value !== 0);
      const texts = set.map(({ name: f, value: v }) => (v === 1 ? f : `${f}=${v < 10 ? v : `0x${v.toString(16)}`}`));
      return `  ${name.padEnd(16)} ${value}${texts.length === 0 ? '' : `  ${texts.join(' ')}`}`;
    });
}

function objects(state: StateView): string[] {
  const users = (id: number) => {
    const names = state.attachments
      .filter((a) => a.to === id)
      .map((a) => `${a.device}${a.pasid < 0 ? '' : ` PASID 0x${a.pasid.toString(16)}`}`);
    return names.length === 0 ? '' : `, attached: ${names.join(', ')}`;
  };
  const tree = (parent: number, depth: number): string[] =>
    state.objects
      .filter((o) => o.parent === parent)
      .flatMap((o) => [`${'  '.repeat(depth)}${o.id}: ${o.text}${users(o.id)}`, ...tree(o.id, depth + 1)]);
  return tree(0, 1);
}

function cached(state: StateView): string[] {
  const unit = (shift: number) => `${2 ** (shift % 10)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][Math.floor(shift / 10)]}`;
  const contexts = [...new Set(state.cached.map((c) => c.context))];
  return contexts.flatMap((context) => [
    `  ${context}`,
    ...state.cached
      .filter((c) => c.context === context)
      .map((c) => `    ${c.input} (${unit(c.shift)}) -> ${c.out} ${c.rights}`),
  ]);
}

/** Ranges as the listing has them. */
function ranges(s: TraceSession, at: number): string[] {
  const { target } = s.machineAt(at);
  const words = new Words(target);
  return streamsOf(target, s.header)
    .flatMap((entry) => entry.spaces.flatMap((space) => space.tables))
    .flatMap((paging) => {
      const found = rangesOf(leavesOf(words, paging)).map(({ from, to, bytes, rights }) => ({
        from,
        to: BigInt(to),
        bytes,
        rights,
      }));
      return mappingLines(joined(found), Number.POSITIVE_INFINITY, '      ');
    });
}

function placesOf(s: TraceSession): number[] {
  const { length } = s.events;
  const through = s.events.findLast((e) => {
    const n = s.moments.firstOf(e.i);
    return e.t === 'xlat' && !s.moments.has(n, 'tables');
  });
  return [length, through?.i ?? 0, Math.floor(length * 0.7), 0, Math.floor(length / 3), length - 1];
}

describe.each(RECORDINGS)('%s', (name) => {
  test('the state at events in any order is what explain says of them', async () => {
    const s = await sessionOf(name);
    let mappings = 0;
    for (const [n, at] of placesOf(s).entries()) {
      for (let k = 0; k < n; k++) s.mend();
      const state = s.state(at);
      const lines = await explained(name, at);
      expect(state.event).toBe(at);
      expect(registers(state)).toEqual(part(lines, /^Registers/));
      const none = (list: string[]) => (list.length === 0 ? ['  none'] : list);
      expect(none(objects(state))).toEqual(part(lines, /^Host objects/));
      expect(cached(state).slice(0, 2000)).toEqual(part(lines, /^Cached translations/).slice(0, 2000));
      expect(state.operations.map(([verb, count]) => `  ${verb.padEnd(20)} ${count}`)).toEqual(
        part(lines, /^Host operations so far/),
      );
      const tables = lines.filter((l) => /^ {6}(0x|nothing mapped)/.test(l));
      expect(ranges(s, at)).toEqual(tables);
      mappings += tables.filter((l) => l.includes('->')).length;
    }
    expect(mappings).toBeGreaterThan(0);
  });

  test('moments come back as they were told', async () => {
    const s = await sessionOf(name);
    const { header, events } = await loadTrace(pathOf(name));
    const told = momentsOf(header, events);
    expect(s.moments.length).toBe(told.length);
    for (const m of told) expect(s.moments.get(m.n)).toEqual(m);
  });

  test('what the tree shows when everything is opened is what the tables map', async () => {
    const s = await sessionOf(name);
    const at = Math.floor(s.events.length * 0.7);
    const opened: string[] = [];
    let state = s.state(at);
    for (let more = true; more; ) {
      const closed = closedIn(state.streams);
      more = closed.length > 0;
      opened.push(...closed);
      if (more) state = s.state(at, opened);
    }
    const shown = leavesShown(state.streams);
    const { target } = s.machineAt(at);
    const words = new Words(target);
    const bytes = streamsOf(target, s.header)
      .flatMap((entry) => entry.spaces.flatMap((space) => space.tables))
      .flatMap((paging) => [...leavesOf(words, paging)])
      .map((e) => `0x${e.input.toString(16)}`);
    expect(bytes.length).toBeGreaterThanOrEqual(shown.length);
    expect(shown.filter((s) => !bytes.includes(s))).toEqual([]);
  });
});

function momentsOf(header: TraceHeader, events: Awaited<ReturnType<typeof loadTrace>>['events']): Moment[] {
  const heard = new Heard();
  const target = makeReplayMachine(header, { tellHardware: true }, heard.tell);
  const replay = new Replay(header, target, heard);
  const told: Moment[] = [];
  const history = new History(header, target, (m) => void told.push(m));
  heard.also = history.tell;
  for (const e of events) {
    history.before(e);
    replay.apply(e);
    history.after();
  }
  return told;
}

function closedIn(nodes: readonly TreeNode[]): string[] {
  return nodes.flatMap((n) => (n.children === null ? [n.id] : closedIn(n.children)));
}

function leavesShown(nodes: readonly TreeNode[]): string[] {
  return nodes.flatMap((n) => (n.kind === 'range' ? [n.label.split(' ')[0]!] : leavesShown(n.children ?? [])));
}
