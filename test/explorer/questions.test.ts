import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { smmuv3GuestWalk, vtdGuestWalk } from '../../src/history/index.ts';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import type { ReplayOptions, XlatEvent } from '../../src/trace/index.ts';
import { openTrace } from '../../src/trace/node.ts';
import { compareRuns, stepsOf } from '../../tools/explorer/model/compare.ts';
import { leavesOf, Words } from '../../tools/explorer/model/paging.ts';
import { accessOf, mappedTimes, whoMaps, whoReaches } from '../../tools/explorer/model/questions.ts';
import { Search } from '../../tools/explorer/model/search.ts';
import { TraceSession } from '../../tools/explorer/model/session.ts';
import { streamsOf } from '../../tools/explorer/model/state.ts';

async function sessionOf(name: string, replay: ReplayOptions = {}): Promise<TraceSession> {
  const path = join('guest-fixtures/recordings', `${name}.ndjson.gz`);
  return TraceSession.open(await openTrace(path), { make: makeReplayMachine, replay });
}

describe.each(['smmuv3-boot', 'vtd-boot', 'vtd-v86-nested'])('%s', (name) => {
  let s: TraceSession;
  beforeAll(async () => {
    s = await sessionOf(name);
  });

  test('at every access the time its address was mapped says what the walk at that event says', () => {
    const accesses = s.events
      .filter((e) => e.t === 'xlat' || e.t === 'fault')
      .filter((_, n, all) => n % Math.ceil(all.length / 12) === 0);
    expect(accesses.length).toBeGreaterThan(5);
    for (const e of accesses) {
      const { stream, lo, hi } = accessOf(e)!;
      const iova = (BigInt(hi >>> 0) << 32n) | BigInt((lo & ~0xfff) >>> 0);
      const walk = s.walk(e.i, stream, lo & ~0xfff, hi);
      const then = mappedTimes(s, [[stream, iova]]).filter((t) => t.from < e.i && (t.to < 0 || t.to >= e.i));
      expect(then.map(({ out, end }) => ({ out, end }))).toEqual([{ out: walk.out, end: walk.end }]);
    }
  });

  test('who maps an address that was accessed, and who reaches the page behind it, is whoever accessed it', () => {
    const e = translated(s);
    const iova = (BigInt(e.hi >>> 0) << 32n) | BigInt((e.lo & ~0xfff) >>> 0);
    const maps = whoMaps(s, iova).filter((t) => t.stream === e.sid && t.from < e.i && (t.to < 0 || t.to >= e.i));
    expect(maps.map((t) => t.out)).toEqual([Math.floor(e.out / 4096) * 4096]);
    const reach = whoReaches(s, e.out, e.i);
    expect(reach.mapped.some((m) => m.stream === e.sid && m.iova === iova)).toBe(true);
    expect(reach.accesses.some((a) => a.stream === e.sid && a.iova === iova && a.last >= e.i)).toBe(true);
    expect(reach.times.every((t) => t.out === Math.floor(e.out / 4096) * 4096)).toBe(true);
  });

  test('the last store of each entry on the way of an access stores to it, and nothing later does', () => {
    const e = translated(s);
    const { stream, lo, hi } = accessOf(e)!;
    const walk = s.walk(e.i, stream, lo, hi);
    expect(walk.entries.length).toBeGreaterThan(2);
    for (const entry of walk.entries) {
      const store = s.events[s.moments.event.at(entry.store)]!;
      if (store.t !== 'st' && store.t !== 'page') throw new Error(`${entry.what}: moment ${entry.store} is no store`);
      expect(store.gpa).toBeLessThan(entry.at + 64);
    }
    expect(Math.max(...walk.entries.map((x) => x.store))).toBe(s.moments.cause.at(accessMoment(s, e.i)));
  });

  test('a search finds what a look at every moment finds', () => {
    const search = new Search(s);
    const all = Array.from({ length: s.moments.length }, (_, n) => s.moments.get(n));
    const stream = all.find((m) => m.stream >= 0)!.stream;
    const half = Math.floor(s.events.length / 2);
    const cases: [string, (m: (typeof all)[number]) => boolean][] = [
      ['', () => true],
      ['lane:commands', (m) => m.lane === 'commands'],
      [`event:${half}..${half + 100}`, (m) => m.event >= half && m.event <= half + 100],
      ['-lane:memory -lane:registers', (m) => m.lane !== 'guest memory' && m.lane !== 'registers'],
      ['lane:"host operations" result:0', (m) => m.lane === 'host operations' && m.args.result === 0],
      ['name:read lane:accesses', (m) => m.lane === 'accesses' && m.name.includes('read')],
    ];
    for (const [query, fits] of cases) expect([...search.find(query)], query).toEqual(all.filter(fits).map((m) => m.n));
    const about = search.find(`about:0x${stream.toString(16)}`);
    expect(all.filter((m) => m.stream === stream).every((m) => about.includes(m.n))).toBe(true);
    expect(search.find('no such text anywhere')).toHaveLength(0);
  });

  test('what is offered for the end of a query is there, and finds something', () => {
    const search = new Search(s);
    expect(search.complete('la')[0]).toBe('lane:');
    for (const query of ['lane:c', 'stream:', 'name:', 'result:', 'lane:host name:']) {
      const offers = search.complete(query);
      expect(offers.length, query).toBeGreaterThan(0);
      for (const offer of offers.slice(0, 3))
        expect(search.find(offer.replace(/^lane:host /, '')).length, offer).toBeGreaterThan(0);
    }
  });
});

test.each(['smmuv3-live', 'vtd-v86-legacy'])(
  '%s compared with itself has no difference; with its invalidations swallowed the first is where the replay first differs',
  async (name) => {
    const steps = stepsOf(await sessionOf(name));
    expect(steps.length).toBeGreaterThan(10);
    expect(compareRuns(steps, steps)).toMatchObject({ first: -1, differing: 0 });
    const broken = await sessionOf(name, { ignoreInvalidations: true });
    const { lines, first } = compareRuns(steps, stepsOf(broken));
    const differs = broken.result!.differences[0]!.i;
    expect(lines[first]!.b!.event).toBeLessThanOrEqual(differs);
    expect(lines.slice(first + 1).find((l) => l.b !== null && l.b.event > differs)).toBeDefined();
    expect(lines.slice(0, first).every((l) => l.how === 'same' || l.how === 'words')).toBe(true);
  },
);

/** The last access that went through tables. */
function translated(s: TraceSession): XlatEvent {
  const e = s.events.findLast((x) => x.t === 'xlat' && !s.moments.has(accessMoment(s, x.i), 'tables'));
  if (e?.t !== 'xlat') throw new Error('no access went through tables');
  return e;
}

/** The moment of an access event. */
function accessMoment(s: TraceSession, event: number): number {
  for (let n = s.moments.firstOf(event); n < s.moments.length && s.moments.event.at(n) === event; n++)
    if (s.moments.lanes.list[s.moments.lane.at(n)] === 'accesses') return n;
  return -1;
}

describe.each(['vtd-v86-scalable', 'vtd-v86-nested', 'smmuv3-live-ats'])('%s', (name) => {
  test('an address of any context leads where a look at all tables says, all through the run', async () => {
    const s = await sessionOf(name);
    let ways = 0;
    const steps = 12;
    for (let n = 1; n <= steps; n++) {
      const event = Math.floor((s.events.length * n) / steps);
      const { target } = s.machineAt(event);
      const words = new Words(target);
      const leaves = streamsOf(target, s.header).flatMap((stream) =>
        stream.spaces.flatMap((space) => {
          const paging = space.tables[0];
          const all = paging === undefined ? [] : leavesOf(words, paging);
          return [...all]
            .slice(0, 6)
            .map((leaf) => ({ stream: stream.first, pasid: space.pasid, paging: paging!, leaf }));
        }),
      );
      const walk = s.header.iommu === 'smmuv3' ? smmuv3GuestWalk : vtdGuestWalk;
      for (const { stream, pasid, paging, leaf } of leaves) {
        if (paging.through !== null) continue;
        const lo = Number(BigInt.asIntN(32, leaf.input));
        const hi = Number(BigInt.asIntN(32, leaf.input >> 32n));
        const way = walk(target, stream, lo, hi, pasid);
        // The tables are still there when translation is off, and lead nobody anywhere.
        if (/is off/.test(way.end)) continue;
        expect([way.end, way.out], `event ${event}, PASID ${pasid}`).toEqual(['', leaf.to]);
        ways++;
      }
    }
    expect(ways).toBeGreaterThan(name === 'vtd-v86-nested' ? 5 : 20);
  });
});
