import { afterAll, expect, test } from 'vitest';
import type { MakeReplayTarget } from '../../src/trace/index.ts';
import { replayCommand } from '../../tools/commands/replay.ts';
import { Random } from '../../tools/oracle/random.ts';
import { viommu } from '../tools/run.ts';
import { FakeTarget } from './fake-target.ts';
import { TraceFolder } from './files.ts';
import { recording } from './mutate.ts';

const folder = new TraceFolder();
afterAll(() => folder.remove());
const make: MakeReplayTarget = (_header, _options, tell) => new FakeTarget(tell);
const COMMANDS = [replayCommand(make)];

/** Values of every JSON type, put where others belong. */
const VALUES = [
  null,
  true,
  0,
  -1,
  1.5,
  2 ** 60,
  '',
  'x',
  '0x',
  '0xg',
  '0xffffffffffffffffff',
  '-0x1',
  [],
  {},
  [1],
  { a: 1 },
];

test.each(['smmuv3-boot', 'vtd-boot'])(
  '%s with a field of any type in any place is read or refused, never a crash',
  async (name) => {
    const { header, events } = recording(name);
    const rnd = new Random(3);
    const short = events.slice(0, 60);
    for (let n = 0; n < 400; n++) {
      const at = rnd.below(short.length + 1);
      const victim = at === short.length ? header : short[at]!;
      const spoiled = { ...victim, [rnd.pick(Object.keys(victim))]: rnd.pick(VALUES) };
      const list = short.map((e) => (e === victim ? spoiled : e));
      const r = await viommu(COMMANDS, ['replay', folder.lines(victim === header ? spoiled : header, list)]);
      expect(r.status, `${JSON.stringify(spoiled)}: ${r.err.join()}`).toBeGreaterThan(0);
      expect(r.status, r.err.join('\n')).toBeLessThan(3);
      expect(r.err.join('\n')).not.toMatch(/undefined|is not a function|Cannot read/);
    }
  },
);
