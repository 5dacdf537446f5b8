import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { Sanitizer } from '../../src/sanitize/index.ts';
import { replayFile } from '../../tools/replay/run.ts';
import { sanitizeFile } from '../../tools/sanitize/run.ts';
import { DATA, RAM } from './driver.ts';
import { SmmuDriver } from './smmuv3-driver.ts';
import { VtdDriver } from './vtd-driver.ts';

const ALL = { only: null, ignore: new Set<never>(), atLeast: 'hint' } as const;

test.each(['smmuv3-default', 'vtd-legacy', 'vtd-scalable-first-ats'])(
  '%s is judged in at most three times the time of its replay',
  async (name) => {
    const path = `guest-fixtures/recordings/${name}.ndjson.gz`;
    const replayed = await replayFile(path, makeReplayMachine, {});
    const judged = await sanitizeFile(path, ALL);

    expect(judged.seconds).toBeLessThan(3 * replayed.seconds);
  },
  300_000,
);

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;

test.each([
  ['SMMUv3', () => new SmmuDriver()],
  ['VT-d', () => new VtdDriver()],
] as const)('%s: a mapped page costs at most 256 bytes', (_, make) => {
  const d = make();
  const sanitizer = new Sanitizer({ iommu: d.iommu, ram: [{ gpa: RAM, size: 0x1000_0000 }], devices: [] });
  const PAGES = 1 << 15;
  let told = 0;
  const tell = () => {
    for (; told < d.guest.events.length; told++) sanitizer.event(d.guest.events[told]!);
  };
  tell();
  d.guest.events.length = 0;
  told = 0;
  gc();
  const before = process.memoryUsage();
  let number = 100_000;
  for (let n = 0; n < PAGES; n++) {
    d.map(0x10_0000 + 0x1000 * n, DATA + 0x1000 * (n % 0x4000));
    for (const e of d.guest.events) sanitizer.event({ ...e, i: number++ });
    d.guest.events.length = 0;
  }
  gc();
  const after = process.memoryUsage();
  // The driver keeps a copy of its own of what it stored: some hundred bytes a page, counted here as well.
  const each = (after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers) / PAGES;
  expect(each).toBeLessThan(256);
});

test('an invalidation of everything is paid by the entries it takes away, not by what is mapped', () => {
  const d = new SmmuDriver();
  for (let n = 0; n < 1 << 15; n++) d.map(0x10_0000 + 0x1000 * n, DATA);
  const start = performance.now();
  d.guest.judge('smmuv3');
  const mapping = performance.now() - start;
  const events = d.guest.events.length;
  for (let n = 0; n < 1 << 12; n++) {
    d.invalidateAll();
    d.submit();
  }
  const again = performance.now();
  d.guest.judge('smmuv3');
  const both = performance.now() - again;

  // As many events again as there were: in the order of the time they took, not of their product.
  expect(d.guest.events.length).toBeLessThan(3 * events);
  expect(both).toBeLessThan(20 * mapping + 2000);
});
