import { readdirSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { History } from '../../src/history/index.ts';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { Heard, Replay } from '../../src/trace/index.ts';
import { openTrace } from '../../src/trace/node.ts';

// QEMU is the oracle: where it translated an access, our walk through the guest's tables ends at the same address; where it
// refused one, the walk says why or lacks the right that was asked for.

const FOLDER = 'guest-fixtures/recordings';
/** Accesses through cached entries that the program has already changed: QEMU answers from its cache, the walk reads memory. */
const CACHED: { readonly [file: string]: number } = { 'smmuv3-guest-two-level.ndjson.gz': 2 };

async function walks(file: string) {
  const trace = await openTrace(`${FOLDER}/${file}`);
  const heard = new Heard();
  const target = makeReplayMachine(trace.header, {}, heard.tell);
  const replay = new Replay(trace.header, target, heard);
  const history = new History(trace.header, target, () => {});
  const wrong: string[] = [];
  let accesses = 0;
  for await (const batch of trace.batches) {
    for (const e of batch) {
      replay.apply(e);
      if (e.t !== 'xlat' && e.t !== 'fault') continue;
      accesses++;
      const walk = history.walk(e.sid, e.lo, e.hi);
      if (e.t === 'xlat' && walk.out !== e.out) wrong.push(`event ${e.i}: ${walk.out.toString(16)}, ${walk.end}`);
      if (e.t === 'fault' && walk.out >= 0 && (walk.perm & e.access) !== 0)
        wrong.push(`event ${e.i}: ${e.name} passes`);
      if (e.t === 'fault' && walk.out < 0 && walk.end === '') wrong.push(`event ${e.i}: ends without a reason`);
    }
  }
  return { wrong, accesses };
}

describe('the walk of every recorded access', () => {
  for (const file of readdirSync(FOLDER).filter((f) => f.endsWith('.gz')))
    test(file, async () => {
      const { wrong, accesses } = await walks(file);
      const cached = CACHED[file] ?? 0;
      expect(wrong.slice(cached)).toEqual([]);
      expect(wrong).toHaveLength(cached);
      if (!file.includes('queue-wrap')) expect(accesses).toBeGreaterThan(0);
    });
});
