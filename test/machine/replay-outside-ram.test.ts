import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { afterAll, expect, test } from 'vitest';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { Heard, Replay } from '../../src/trace/index.ts';
import { openTrace } from '../../src/trace/node.ts';
import { type Line, TraceFolder } from '../trace/files.ts';

const folder = new TraceFolder();
afterAll(() => folder.remove());

/** Where nothing is: in the PCI hole and windows of either board, and above RAM. */
const HOLES = ['0x20001000', '0xe0001004', '0xf0000000', '0x8000000000', '0xfffffff000'];

/**
 * A recording whose functions are in pass-through or bypass, with a read and a write outside of RAM after every tenth
 * translation to where it came from. QEMU translates these, and it is for the bus to find nothing there.
 */
async function withReadsOutsideRam(name: string) {
  const text = gunzipSync(readFileSync(`guest-fixtures/recordings/${name}.ndjson.gz`)).toString();
  const [header, ...events] = text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
  const out: Line[] = [];
  let seen = 0;
  let added = 0;
  for (const e of events) {
    out.push(e);
    if (e.t !== 'xlat' || e.iova !== e.out || e.asid !== undefined || seen++ % 10 !== 0) continue;
    const hole = HOLES[added++ % HOLES.length]!;
    for (const perm of ['r', 'w']) out.push({ t: 'xlat', sid: e.sid, iova: hole, out: hole, perm, mode: 'bypass' });
  }
  const numbered = out.map((e, i) => ({ ...e, i }));
  const trace = await openTrace(folder.lines(header!, numbered));
  const heard = new Heard();
  const run = new Replay(trace.header, makeReplayMachine(trace.header, {}, heard.tell), heard);
  for await (const batch of trace.batches) for (const e of batch) run.apply(e);
  return { result: run.finish(), added };
}

test.each(['smmuv3-passthrough', 'vtd-v86-pass-through'])(
  '%s: an access outside of RAM is translated to itself, and nothing is recorded',
  async (name) => {
    const { result, added } = await withReadsOutsideRam(name);
    expect(result.differences).toEqual([]);
    expect([result.ok, added > 50]).toEqual([true, true]);
  },
);
