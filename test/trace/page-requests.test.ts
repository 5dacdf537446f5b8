import { afterAll, expect, test } from 'vitest';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { Heard, Replay, type TraceEvent } from '../../src/trace/index.ts';
import { openTrace } from '../../src/trace/node.ts';
import { numbered, SMMU_HEADER, TraceFolder } from './files.ts';

const folder = new TraceFolder();
afterAll(() => folder.remove());

const NESTED = 'guest-fixtures/recordings/vtd-v86-nested.ndjson.gz';

/** Replays the guest that nests, without the events `skip` takes out. */
async function replay(skip: (e: TraceEvent) => boolean) {
  const trace = await openTrace(NESTED);
  const heard = new Heard();
  const run = new Replay(trace.header, makeReplayMachine(trace.header, {}, heard.tell), heard);
  let asked = 0;
  for await (const batch of trace.batches) {
    for (const e of batch) {
      if (e.t === 'prq') asked++;
      if (!skip(e)) run.apply(e);
    }
  }
  return { asked, result: run.finish() };
}

test('a function that asked for pages asks again, and the guest gets the same records and interrupts', async () => {
  const { asked, result } = await replay(() => false);
  expect([asked, result.ok]).toEqual([2, true]);
  expect(result.commands.get('page-response')).toBe(2);
});

test('page requests that are withheld are missed', async () => {
  const { result } = await replay((e) => e.t === 'prq');
  expect(result.ok).toBe(false);
  expect(result.columns.records.matched).toBe(result.columns.records.total - 2);
});

test.each([
  [{ perm: 'x' }, /"perm": expected "r", "w", "rw" or ""/],
  [{ group: 512 }, /"group": expected an integer from 0 to 511/],
  [{ last: 1 }, /"last"/],
  [{ iova: 'somewhere' }, /"iova"/],
])('a page request with %o is refused by name', async (change, message) => {
  const event = { t: 'prq', sid: 8, iova: '0x1000', perm: 'rw', group: 3, last: true };
  const good = folder.lines(SMMU_HEADER, numbered([event]));
  const bad = folder.lines(SMMU_HEADER, numbered([{ ...event, ...change }]));
  const read = async (path: string) => {
    for await (const batch of (await openTrace(path)).batches) expect(batch.length).toBe(1);
  };
  await read(good);
  await expect(read(bad)).rejects.toThrow(message);
});
