import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, describe, expect, test } from 'vitest';
import { type QtestKind, transcript, transcripts } from '../../../tools/conformance/qtest-pair.ts';
import { run } from '../program.ts';

// Clients of qtest, each a process that starts $QTEST_QEMU_BINARY as libqtest does and plays a conversation with QEMU.

const folder = mkdtempSync(join(tmpdir(), 'viommu-record-qtest-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Each of its arguments is a file with a machine's words and the requests to it. */
const CLIENT = join(folder, 'client.mjs');
writeFileSync(
  CLIENT,
  `import { spawn } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
for (const [n, path] of process.argv.slice(2).entries()) {
  const { args, requests } = JSON.parse(readFileSync(path, 'utf8'));
  const socket = path + '.sock';
  let child;
  const line = await new Promise((done) => {
    const server = createServer((s) => { server.close(); done(s); });
    server.listen(socket, () => {
      child = spawn(process.env.QTEST_QEMU_BINARY, ['-qtest', 'unix:' + socket, '-qtest-log', '/dev/null', '-accel', 'qtest', ...args]);
    });
  });
  const over = new Promise((done) => child.once('exit', done));
  let replies = 0;
  await new Promise((done) => {
    line.on('data', (d) => {
      replies += d.toString().split('\\n').filter((l) => l !== '' && !l.startsWith('IRQ')).length;
      if (replies >= requests.length) done();
    });
    line.write(requests.map((r) => r + '\\n').join(''));
  });
  line.destroy();
  await over;
  rmSync(socket, { force: true });
}
`,
);

function conversation(kind: QtestKind, name: string): string {
  const { args, exchanges } = transcript(kind, name);
  const path = join(folder, `${kind}-${name}.json`);
  writeFileSync(path, JSON.stringify({ args, requests: exchanges.map((x) => x.request) }));
  return path;
}

/** VIOMMU_RECORD=all records every conversation of the corpus. */
const CHOSEN: Readonly<Record<QtestKind, readonly string[]>> =
  process.env.VIOMMU_RECORD === 'all'
    ? { smmuv3: transcripts('smmuv3'), vtd: transcripts('vtd') }
    : { smmuv3: ['s1-faults.qt', 'inv-s1-nh-va.qt'], vtd: transcripts('vtd').slice(0, 2) };

const ARCH = { smmuv3: 'aarch64', vtd: 'x86_64' } as const;

describe('viommu record qtest', () => {
  test.each((['smmuv3', 'vtd'] as const).flatMap((kind) => CHOSEN[kind].map((name) => [kind, name] as const)))(
    '%s %s: what the client did is a recording that replays',
    (kind, name) => {
      const output = join(folder, `${kind}-${name}.ndjson.gz`);
      const client = [process.execPath, CLIENT, conversation(kind, name)];
      const { status, out, err } = run(['record', 'qtest', '--arch', ARCH[kind], '--output', output, '--', ...client]);
      expect([err, status]).toEqual([expect.stringMatching(/all as recorded/), 0]);
      expect(out).toMatch(/matches\n$/);
      const [header, ...events] = gunzipSync(readFileSync(output)).toString().trimEnd().split('\n');
      expect(JSON.parse(header!)).toMatchObject({ iommu: kind });
      const { exchanges } = transcript(kind, name);
      const stores = exchanges.filter((x) => /^(write|writeb|writew|writel|writeq) /.test(x.request)).length;
      expect(events.filter((l) => /"t":"(st|w)"/.test(l)).length).toBeGreaterThan(stores / 2);
    },
  );

  test("the DMA of the client's test devices is in it", () => {
    const output = join(folder, 'dma.ndjson');
    const client = [process.execPath, CLIENT, conversation('smmuv3', 's1-faults.qt')];
    run(['record', 'qtest', '--arch', 'aarch64', '--no-verify', '--output', output, '--', ...client]);
    const kinds = readFileSync(output, 'utf8').match(/"t":"(xlat|fault|dst)"/g) ?? [];
    expect(new Set(kinds)).toEqual(new Set(['"t":"xlat"', '"t":"fault"', '"t":"dst"']));
  });

  test('a client that starts two machines leaves two recordings', () => {
    const output = join(folder, 'two.ndjson.gz');
    const both = ['s1-faults.qt', 'inv-s1-nh-va.qt'].map((n) => conversation('smmuv3', n));
    const { status, out } = run([
      'record',
      'qtest',
      '--arch',
      'aarch64',
      '--output',
      output,
      '--',
      process.execPath,
      CLIENT,
      ...both,
    ]);
    expect(status).toBe(0);
    expect(out.trimEnd().split('\n').length).toBe(3);
    expect(existsSync(join(folder, 'two-2.ndjson.gz'))).toBe(true);
  });

  test.each<[string[], RegExp]>([
    [['true'], /true started no machine with an IOMMU/],
    [['/no/such/client'], /cannot be run/],
    [[], /expected the client's command line after --/],
  ])('%j: status 2, and why', (client, why) => {
    const { status, err } = run(['record', 'qtest', '--output', join(folder, 'none.ndjson'), '--', ...client]);
    expect(status).toBe(2);
    expect(err).toMatch(why);
  });
});
