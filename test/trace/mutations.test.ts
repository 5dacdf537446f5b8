import { afterAll, describe, expect, test } from 'vitest';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { replayCommand } from '../../tools/commands/replay.ts';
import { Random } from '../../tools/oracle/random.ts';
import { type Ran, viommu } from '../tools/run.ts';
import { type Line, TraceFolder } from './files.ts';
import { flipped, recording, renumbered } from './mutate.ts';

const folder = new TraceFolder();
afterAll(() => folder.remove());
const COMMANDS = [replayCommand(makeReplayMachine)];

async function replay(path: string, ...options: string[]): Promise<Ran> {
  const r = await viommu(COMMANDS, ['replay', ...options, path]);
  const all = [...r.out, ...r.err].join('\n');
  expect(all, 'no stack trace').not.toMatch(/^\s+at .*[:(]\d+/m);
  expect(r.status, all).not.toBe(3);
  return r;
}

describe.each(['smmuv3-default', 'vtd-legacy'])('%s, spoiled', (name) => {
  const { header, events } = recording(name);

  test('diverges when one store in a hundred is lost', async () => {
    const rnd = new Random(1);
    const left = renumbered(events.filter((e) => e.t !== 'st' || !rnd.chance(1)));
    const r = await replay(folder.lines(header, left));
    expect(r.status).toBe(1);
    expect(r.out.join('\n')).toMatch(/differences; the first:\n {2}event \d+: .*\n {4}expected .*\n {4}got /);
  });

  test('differs at exactly the event whose output lost a bit', async () => {
    const xlats = events.filter((e) => e.t === 'xlat');
    const victim = xlats[xlats.length >> 1]!;
    const path = folder.lines(
      header,
      events.map((e) => (e === victim ? { ...e, out: flipped(e.out, 14) } : e)),
    );
    const r = await replay(path, '--json');
    expect(r.status).toBe(1);
    const report = JSON.parse(r.out[0]!) as { ok: boolean; translations: { total: number; matched: number } };
    expect(report.ok).toBe(false);
    expect(report.translations.total - report.translations.matched).toBe(1);
    expect(r.err.join('\n')).toContain(`event ${victim.i}:`);
    expect(r.err.join('\n')).toContain(`got      out ${victim.out}`);
  });

  test('diverges when stores come after the translations that need them', async () => {
    const late: Line[] = [];
    const held: Line[] = [];
    for (const e of events) {
      if (e.t === 'st') held.push(e);
      else if (e.t === 'xlat') late.push(e, ...held.splice(0));
      else late.push(e);
    }
    const r = await replay(folder.lines(header, renumbered([...late, ...held])));
    expect(r.status).toBe(1);
  });

  test('is refused when it ends in the middle', async () => {
    const half = events.slice(0, events.length >> 1);
    const text = [header, ...half].map((l) => JSON.stringify(l)).join('\n');
    const r = await replay(folder.text(text.slice(0, -10)));
    expect(r.status).toBe(2);
    expect(r.err.join('\n')).toMatch(
      new RegExp(`event ${half.length - 1}: line ${half.length + 1}: expected a JSON object`),
    );
  });
});

test.each<[string, string, string, RegExp]>([
  [
    'smmuv3-boot',
    'qemu-system-aarch64 -M virt',
    '0x20000000',
    /header: the command line has no SMMUv3 at the recorded address/,
  ],
  [
    'smmuv3-boot',
    'qemu-system-aarch64 -M microvm,iommu=smmuv3',
    '0x20000000',
    /header: .* machine type 'microvm' has no smmuv3/,
  ],
  ['smmuv3-boot', 'qemu-system-aarch64 -M virt,iommu=smmuv3', '0x8000000000000', /header: /],
  ['vtd-boot', '', '0x20000000', /header: /],
  [
    'vtd-boot',
    'qemu-system-x86_64 -M q35 -device intel-iommu,foo=on',
    '0x20000000',
    /header: -device intel-iommu,foo=on: Property 'intel-iommu.foo' not found/,
  ],
  ['vtd-boot', 'qemu-system-x86_64 -M q35 -device intel-iommu,aw-bits=99', '0x20000000', /header: .*aw-bits/],
])('%s with the command line "%s" and %s bytes of RAM is refused by name', async (name, cmdline, size, message) => {
  const { header, events } = recording(name);
  const [ram] = header.ram as readonly Line[];
  const spoiled = { ...header, source: { ...(header.source as Line), cmdline }, ram: [{ ...ram, size }] };
  const r = await replay(folder.lines(spoiled, events));
  expect(r.status).toBe(2);
  expect(r.err.join('\n')).toMatch(message);
  expect(r.err.join('\n')).toMatch(/viommu replay: t\d+\.ndjson\.gz: /);
});

test('with its invalidations ignored, the strict guest meets stale translations', async () => {
  const path = 'guest-fixtures/recordings/smmuv3-strict-heavy.ndjson.gz';
  const r = await replay(path, '--ignore-invalidations', '--json');
  expect(r.status).toBe(1);
  const { translations } = JSON.parse(r.out[0]!) as { translations: { total: number; matched: number } };
  expect(translations.matched).toBeLessThan(translations.total);
});

describe.each(['smmuv3-boot', 'vtd-boot'])('%s, spoiled at random', (name) => {
  const { header, events } = recording(name);

  test('lost, doubled and exchanged lines are always noticed', async () => {
    const rnd = new Random(7);
    for (let n = 0; n < 6; n++) {
      const list = [...events];
      const at = rnd.below(list.length - 1);
      const kind = rnd.below(3);
      if (kind === 0) list.splice(at, 1);
      else if (kind === 1) list.splice(at, 0, list[at]!);
      else [list[at], list[at + 1]] = [list[at + 1]!, list[at]!];
      const r = await replay(folder.lines(header, list));
      expect(r.status, `change ${kind} at ${at}`).toBe(2);
      expect(r.err.join('\n')).toMatch(/event \d+: "i": expected the next event number/);
    }
  });

  test('a wrong bit in anything that is compared is always noticed', async () => {
    const rnd = new Random(8);
    const compared = events.filter((e) => e.t === 'r' || e.t === 'xlat');
    for (let n = 0; n < 6; n++) {
      const victim = rnd.pick(compared);
      const field = victim.t === 'r' ? 'val' : 'out';
      const bit = rnd.below(victim.t === 'r' ? 8 * Number(victim.size) : 40);
      const list = events.map((e) => (e === victim ? { ...e, [field]: flipped(e[field], bit) } : e));
      const r = await replay(folder.lines(header, list));
      expect(r.status, `bit ${bit} of event ${victim.i}`).toBe(1);
    }
  });

  test('random characters in the text never end in a stack trace', async () => {
    const rnd = new Random(9);
    const text = [header, ...events].map((l) => JSON.stringify(l)).join('\n');
    for (let n = 0; n < 15; n++) {
      const at = rnd.below(text.length);
      const noise = rnd.pick(['"', '0', 'f', '{', '}', ',', ':', 'x', '-', '1e9', '\n', 'null', '\u0000', 'é']);
      await replay(folder.text(text.slice(0, at) + noise + text.slice(at + rnd.below(3))));
    }
  });
});
