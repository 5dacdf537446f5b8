import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { openTrace } from '../../src/trace/node.ts';
import { type Drive, LiveSession, STEP_TO } from '../../tools/explorer/model/live.ts';
import { TraceSession } from '../../tools/explorer/model/session.ts';

const settled = () => new Promise<void>((done) => setTimeout(done, 0));

function told(s: TraceSession): string[] {
  return Array.from({ length: s.moments.length }, (_, n) => JSON.stringify(s.moments.get(n)));
}

describe.each(['smmuv3-guest-faults', 'vtd-boot'])('%s, as if its machine still ran', (name) => {
  const path = `guest-fixtures/recordings/${name}.ndjson.gz`;
  const [header, ...lines] = gunzipSync(readFileSync(path)).toString().trimEnd().split('\n') as [string, ...string[]];
  const text = `${lines.join('\n')}\n`;
  const whole = openTrace(path).then((trace) => TraceSession.open(trace, { make: makeReplayMachine }));

  test('in pieces of any size, paused and stepped at any time, it comes to what the whole recording says', async () => {
    const s = await whole;
    const all = told(s);
    const drives = fc.constantFrom<Drive>('run', 'pause', 'command', 'access');
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.integer({ min: 1, max: 40_000 }), drives), { maxLength: 12 }),
        async (list) => {
          const live = await LiveSession.begin(name, header, makeReplayMachine);
          let at = 0;
          for (const [size, drive] of list) {
            live.feed(text.slice(at, at + size));
            at += size;
            await settled();
            const before = live.session.moments.length;
            live.drive(drive);
            const now = told(live.session);
            expect(now).toEqual(all.slice(0, now.length));
            if (drive !== 'run' && drive !== 'pause' && live.drives === 'pause') {
              // A step ends with the first event that has a moment of the lane.
              const lane = s.moments.lanes.find(STEP_TO[drive]);
              const fresh = Array.from({ length: now.length - before }, (_, k) => before + k);
              const hit = fresh.filter((n) => s.moments.lane.at(n) === lane);
              expect(new Set(hit.map((n) => s.moments.event.at(n))).size).toBe(1);
              expect(s.moments.event.at(hit[0]!)).toBe(s.moments.event.at(now.length - 1));
            }
          }
          live.drive('run');
          live.feed(text.slice(at));
          live.end();
          for (let n = 0; n < 200 && live.session.events.length < lines.length; n++) await settled();
          expect(told(live.session)).toEqual(all);
          expect(live.held).toBe(0);
          expect(live.session.differing).toBe(0);
        },
      ),
      { numRuns: 12 },
    );
  });

  test('states, ways and causes of what has been shown are those of the whole recording', async () => {
    const s = await whole;
    const live = await LiveSession.begin(name, header, makeReplayMachine);
    const half = Math.floor(lines.length / 2);
    live.feed(`${lines.slice(0, half).join('\n')}\n`);
    await settled();
    const ask = [half, 0, Math.floor(half / 2), half];
    for (const n of ask) expect(live.session.state(n)).toEqual(s.state(n));
    while (live.session.mend());
    live.feed(`${lines.slice(half).join('\n')}\n`);
    await settled();
    for (const n of [...ask, lines.length]) expect(live.session.state(n)).toEqual(s.state(n));
    expect(live.session.rows.rows).toEqual(s.rows.rows);
  });
});

test('what is no recording is said when somebody drives on', async () => {
  const path = 'guest-fixtures/recordings/smmuv3-guest-faults.ndjson.gz';
  const [header] = gunzipSync(readFileSync(path)).toString().split('\n');
  const live = await LiveSession.begin('guest', header!, makeReplayMachine);
  live.feed('{"i":0,"t":"w","off":"0x2');
  await settled();
  live.feed('"}\n');
  await settled();
  expect(() => live.drive('run')).toThrow(/event 0: "size"/);
});
