import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openTrace } from '../../src/trace/node.ts';

const FOLDER = 'guest-fixtures/recordings';
const MANIFEST = JSON.parse(readFileSync('guest-fixtures/manifest.json', 'utf8')) as {
  readonly recordings: readonly {
    readonly file: string;
    readonly sha256: string;
    readonly iommu: string;
    readonly events: number;
    readonly source: string;
    readonly shows: string;
  }[];
};

test('the manifest names every recording there is, once', () => {
  const files = readdirSync(FOLDER).filter((f) => f.endsWith('.gz'));
  expect(MANIFEST.recordings.map((r) => r.file)).toEqual(files.toSorted());
});

test.each(MANIFEST.recordings.map((r) => [r.file, r] as const))(
  '%s is the file the manifest describes, and reads to its end',
  async (_, r) => {
    const path = join(FOLDER, r.file);
    expect(createHash('sha256').update(readFileSync(path)).digest('hex')).toBe(r.sha256);
    expect(r.shows).not.toBe('');
    expect(r.source).toMatch(/^(QEMU|npm run live).*guest .*/);

    const trace = await openTrace(path);
    let events = 0;
    for await (const batch of trace.batches) events += batch.length;
    expect(events).toBe(r.events);
    expect(trace.header.iommu).toBe(r.iommu);
  },
);
