import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { BACKENDS, RELEASES } from '../../src/adapters/iommufd-socket/backend.ts';
import { makeServedFunction, SERVED_FUNCTIONS } from '../../src/adapters/iommufd-socket/endpoints.ts';
import { IommufdServer } from '../../src/adapters/iommufd-socket/server.ts';
import { ViommuError } from '../../src/core/errors.ts';
import { type GoldenResult, replayGolden } from '../../src/host/replay/golden.ts';
import { parseGolden } from '../../src/host/replay/golden-text.ts';
import { onSignals } from '../cli/leaving.ts';
import { atLeast, oneOf, several } from '../cli/parser.ts';
import type { Session } from '../cli/session.ts';
import { type Command, EXIT, usageError } from '../cli/verb.ts';

/** Bytes a recording may unpack to; a kernel's answers to a million ioctls take a tenth. */
const MOST_TEXT = 2 ** 28;

/** @throws ViommuError `E_TRACE_FORMAT` the file cannot be read or unpacked, or unpacks to more than MOST_TEXT. */
function readRecording(path: string): string {
  try {
    const bytes = readFileSync(path);
    const packed = bytes[0] === 0x1f && bytes[1] === 0x8b;
    return (packed ? gunzipSync(bytes, { maxOutputLength: MOST_TEXT }) : bytes).toString('utf8');
  } catch (e) {
    const bomb = e instanceof RangeError && 'code' in e && e.code === 'ERR_BUFFER_TOO_LARGE';
    const why = bomb ? `it unpacks to more than ${MOST_TEXT >> 20} MiB` : e instanceof Error ? e.message : String(e);
    throw new ViommuError('E_TRACE_FORMAT', 'trace', `cannot read the recording: ${why}`, { file: path }, e);
  }
}

function replayFile(path: string, io: Session): GoldenResult {
  const name = basename(path);
  const result = replayGolden(parseGolden(readRecording(path), name), name);
  if (io.json) {
    io.out(JSON.stringify({ file: name, passed: result.passed, failed: result.failed }));
    return result;
  }
  for (const f of result.failed) {
    io.out(`${f.file}:${f.line}: seed ${f.seed}: ${f.asked}`);
    io.out(`  recorded: ${f.want}`);
    io.out(`  got:      ${f.got}`);
  }
  return result;
}

function replay(paths: readonly string[], io: Session): number {
  let passed = 0;
  let failed = 0;
  let broken = 0;
  for (const path of paths) {
    try {
      const r = replayFile(path, io);
      passed += r.passed;
      failed += r.failed.length;
    } catch (e) {
      if (!(e instanceof ViommuError)) throw e;
      broken++;
      io.err(`viommu iommufd: ${e.message}`);
    }
  }
  if (!io.json) io.out(`${passed} passed, ${failed} failed`);
  if (broken > 0) return EXIT.INPUT;
  return failed === 0 ? EXIT.OK : EXIT.DIFFERS;
}

/** Serves until SIGINT or SIGTERM. */
async function serve(
  path: string,
  backend: string,
  release: (typeof RELEASES)[number],
  patience: number | undefined,
  devices: readonly string[],
  io: Session,
): Promise<number> {
  const functions = devices.map((text, n) => makeServedFunction(text, n));
  const server = new IommufdServer({
    path,
    backend,
    release,
    functions,
    ...(patience === undefined ? {} : { patience }),
  });
  // A bug of ours: the client it happened to has lost its connection, the others go on.
  server.onFailure = (e) => io.err(`viommu iommufd: internal error: ${e.stack ?? e.message}`);
  try {
    await server.listen();
  } catch (e) {
    const why = e instanceof Error ? e.message : String(e);
    throw new ViommuError('EINVAL', 'caller', `cannot listen: ${why}`, { path }, e);
  }
  const over = new Promise<number>((resolve) => onSignals(() => resolve(EXIT.OK)));
  if (io.json) io.out(JSON.stringify({ socket: path, backend, release }));
  io.note(`viommu iommufd: ${backend} on ${path}`);
  try {
    return await over;
  } finally {
    await server.close();
  }
}

interface Values {
  readonly replay?: readonly string[];
  readonly socket?: string;
  readonly backend?: string;
  readonly patience?: number;
  readonly device?: readonly string[];
  readonly release?: (typeof RELEASES)[number];
}

/** `viommu iommufd`. */
export const iommufdCommand: Command = {
  name: 'iommufd',
  summary: "the host's iommufd alone: replay recorded kernel answers, or serve /dev/iommu on a socket",
  about: `The emulated host's iommufd by itself. Either replays recordings of a real kernel's answers (plain or .gz): every id, errno,
IOVA and event byte must be equal; prints the first differing line of each failed seed and "N passed, M failed" (seeds).
Or serves /dev/iommu on a Unix socket to programs that run with the preload library (tools/iommufd-preload) and
IOMMUFD_SOCK=PATH, until it is interrupted: status 0.`,
  notes: 'Exit status: 0 everything matched, 1 a seed differs, 2 the input cannot be used.',
  examples: [
    'viommu iommufd --replay golden-7.2.13.txt.gz',
    'viommu iommufd --socket /tmp/iommufd.sock --backend smmuv3',
    'viommu iommufd --socket /tmp/iommufd.sock --backend vtd --device nvme:256 --device dma-engine',
  ],
  declare(parser) {
    parser
      .argument('[file...]', 'more recordings to replay')
      .option('--replay <file>', 'replays recorded answers of a kernel', several)
      .option('--socket <path>', 'serves /dev/iommu there')
      .addOption(
        oneOf(
          '--backend <name>',
          "mock (default): the IOMMU of the kernel's selftests; smmuv3, vtd: emulated hardware",
          BACKENDS,
        ),
      )
      .option(
        '--device <name>',
        `a function that works, DMA included, at 0000:01:00.0, the next at 01.0 and so on: ${SERVED_FUNCTIONS.join(', ')}, ` +
          'nvme:MEGABYTES (default: four that do nothing); the server then reaches the memory of its clients',
        several,
      )
      .addOption(oneOf('--release <version>', 'whose test driver the mock is: 7.2 (default) or 7.3', RELEASES))
      .option(
        '--patience <ms>',
        'how long a client may take to answer inside an ioctl before it is dropped (default 10000)',
        atLeast(1, false),
      );
  },
  async run(files, values: Values, io) {
    if ((values.replay === undefined) === (values.socket === undefined)) {
      throw usageError('expected either --replay FILE... or --socket PATH');
    }
    if (values.replay !== undefined) return replay([...values.replay, ...files], io);
    if (files.length > 0) throw usageError(`unexpected argument "${files[0]}"`);
    return serve(
      values.socket ?? '',
      values.backend ?? 'mock',
      values.release ?? '7.2',
      values.patience,
      values.device ?? [],
      io,
    );
  },
};
