import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, test } from 'vitest';
import { type BenchCase, type Measured, type Prepared, titleOf } from '../../tools/bench/case.ts';
import { CASES } from '../../tools/bench/cases/index.ts';
import { GATES, HOT_HEAP, REFERENCE_WALK_NS } from '../../tools/bench/gates.ts';
import { judge } from '../../tools/bench/judge.ts';
import { MEASURING, spread } from '../../tools/bench/measure.ts';

const ROOT = join(import.meta.dirname, '../..');
const titles = CASES.map(titleOf);

function measured(title: string, value: number, more: Partial<Measured> = {}): Measured {
  const walk = REFERENCE_WALK_NS * 2;
  const rest = { path: 'guest path', name: title, n: null, unit: 'ns', heap: 0, hot: true } as const;
  return { ...rest, title, value, low: value, high: value, walk, ...more };
}

test('rows have titles of their own, and every gate names a row', () => {
  expect(new Set(titles).size).toBe(titles.length);
  for (const g of GATES) for (const t of [g.title, g.of ?? g.title]) expect(titles).toContain(t);
});

test('a gate is judged by what the row would cost on the machine of the gate', () => {
  const gate = { title: 'a', atMost: 100, because: '' };
  // This machine's walk takes twice as long, so 198 ns here are 99 ns there.
  expect(judge([measured('a', 198)], [gate]).verdicts[0]!.ok).toBe(true);
  expect(judge([measured('a', 202)], [gate]).verdicts[0]!.ok).toBe(false);
  expect(judge([measured('a', 101, { unit: 'B', hot: false })], [gate]).verdicts.map((v) => v.ok)).toEqual([false]);
});

test('a gate that compares two rows takes the ratio, and is counted as not judged without the other row', () => {
  const gate = { title: 'a', of: 'b', atMost: 2, because: '' };
  const cool = { hot: false };
  expect(judge([measured('a', 30, cool), measured('b', 14, cool)], [gate]).verdicts[0]!.ok).toBe(false);
  expect(judge([measured('a', 30, cool), measured('b', 16, cool)], [gate]).verdicts[0]!.ok).toBe(true);
  expect(judge([measured('a', 30, cool)], [gate])).toEqual({ verdicts: [], unmeasured: ['a'] });
});

test('a hot path that allocates fails, another one does not', () => {
  expect(judge([measured('a', 1, { heap: 0.6 })], []).verdicts.map((v) => v.ok)).toEqual([false]);
  expect(judge([measured('a', 1, { heap: 0.6, hot: false })], []).verdicts).toEqual([]);
});

/** An operation in a process that measures, as `heapPerOp` sees it: bytes. */
function heapOf(operation: string): number {
  const program = `
    import { heapPerOp } from ${JSON.stringify(pathToFileURL(join(ROOT, 'dist/tools/bench/measure.js')).href)};
    let last = null;
    let n = 0;
    const p = { ops: 512, run() { for (let i = 0; i < 512; i++) { n = (n * 5 + 3) & 1023; ${operation} } } };
    for (let warm = 0; warm < 2000; warm++) p.run();
    process.stdout.write(String(heapPerOp(p)));`;
  const args = [...MEASURING, '--input-type=module', '--eval', program];
  return Number(spawnSync(process.execPath, args, { encoding: 'utf8' }).stdout || Number.NaN);
}

// The header of an object is three words of 8 bytes, each property another one.
test.each([
  ['an object of one property', 'last = { a: n };', 32],
  ['an object of six properties', 'last = { a: n, b: n, c: n, d: n, e: n, f: n };', 72],
  ['an array of 16 elements', 'last = [n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, n];', 176],
])('the heap of an operation that makes %s shows it', (_name, operation, bytes) => {
  const heap = heapOf(operation);
  expect(heap).toBeGreaterThanOrEqual(bytes * 0.7);
  expect(heap).toBeLessThanOrEqual(bytes * 1.3);
});

test('the heap of an operation that makes nothing is within the limit of a hot path', () => {
  expect(heapOf('')).toBeLessThanOrEqual(HOT_HEAP);
});

test('every hit, every request of an ATC and every forwarded command has a limit of its own', () => {
  const limited = new Set(GATES.filter((g) => g.of === undefined).map((g) => g.title));
  const must = titles.filter((t) =>
    /^hardware only.*(IOTLB hit|nested miss)|a lookup|page forgotten|TG and TTL|ATC_INV|device-TLB/.test(t),
  );
  expect(must.length).toBeGreaterThan(15);
  expect(must.filter((t) => !limited.has(t))).toEqual([]);
});

test('the program measures a row alone, judges, draws it, and says by its status what became of the gates', () => {
  const dir = mkdtempSync(join(tmpdir(), 'viommu-bench-'));
  const svg = join(dir, 'page.svg');
  const args = ['--only', 'a lookup, 1 PASIDs', '--rounds', '1', '--json', '--gates', '--svg', svg];
  const r = spawnSync(process.execPath, [join(ROOT, 'dist/tools/bench/main.js'), ...args], { encoding: 'utf8' });
  const lines = r.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(lines[0]).toMatchObject({ title: "to a real endpoint's ATC: a lookup, 1 PASIDs", unit: 'ns' });
  expect(lines[1]).toMatchObject({ gate: "to a real endpoint's ATC: a lookup, 1 PASIDs" });
  expect(r.stderr).toContain(`2 gates judged, `);
  expect(r.stderr).toContain(`${GATES.length - 1} not judged`);
  expect(r.status).toBe(lines.every((l) => l.ok !== false) ? 0 : 1);
  expect(readFileSync(svg, 'utf8')).toContain('a lookup, 1 PASIDs');
  rmSync(dir, { recursive: true });
});

test('gates of which none was judged are not gates that hold', () => {
  const args = [join(ROOT, 'dist/tools/bench/main.js'), '--only', 'scale: a function behind a vVT-d', '--gates'];
  const r = spawnSync(process.execPath, args, { encoding: 'utf8' });
  expect(r.stderr).toContain(`0 gates judged, 0 failed; ${GATES.length} not judged`);
  expect(r.status).toBe(2);
});

test('a row that is not there is wrong usage', () => {
  const args = [join(ROOT, 'dist/tools/bench/main.js'), '--only', 'no such row'];
  expect(spawnSync(process.execPath, args, { encoding: 'utf8' }).status).toBe(2);
});

async function prepared(title: string): Promise<Prepared> {
  const c = CASES.find((x: BenchCase) => titleOf(x) === title)!;
  if ('unit' in c) throw new Error(`${title} is not timed`);
  return c.setup();
}

/** CPU time of `a` over that of `b`, per operation, in rounds that alternate. */
async function ratio(a: string, b: string): Promise<number> {
  const [first, second] = [await prepared(a), await prepared(b)];
  const once = (p: Prepared) => {
    const before = process.cpuUsage();
    for (let n = 0; n < 40; n++) p.run();
    return process.cpuUsage(before).user / p.ops;
  };
  const rounds: number[] = [];
  for (let round = 0; round < 15; round++) rounds.push(once(first) / once(second));
  return spread(rounds.slice(4)).value;
}

/** What grew with the number of cached translations once; 60,000 miss the processor's caches where 200 do not. */
test.each([
  ['guest path: VT-d legacy: page, wait, used again', 5],
  ['guest path: SMMUv3 nested: S2_IPA, NH_ASID, SYNC, used again', 5],
  ['guest path: SMMUv3 TLBI_NH_VA, 63 and a SYNC', 5],
  ['guest path: VT-d first stage: PASID-IOTLB page, 63 and a wait', 5],
])('%s costs with 60,000 cached at most %d times what it costs with 200', async (name, most) => {
  expect(await ratio(`${name}, 60,000 cached`, `${name}, 200 cached`)).toBeLessThan(most);
});
