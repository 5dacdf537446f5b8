import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { parseArgs } from 'node:util';
import { gunzipSync } from 'node:zlib';
import { BACKENDS, RELEASES } from '../../src/adapters/iommufd-socket/backend.ts';
import { IommufdServer } from '../../src/adapters/iommufd-socket/server.ts';
import { ViommuError } from '../../src/core/errors.ts';
import { type GoldenResult, replayGolden } from '../../src/host/replay/golden.ts';
import { parseGolden } from '../../src/host/replay/golden-text.ts';
import { type Command, EXIT, type Io, usageError } from '../cli/command.ts';

const USAGE = `usage: viommu iommufd --replay FILE... | --socket PATH [--backend mock|smmuv3|vtd]

The emulated host's iommufd by itself.

  --replay FILE...   replays recordings of a real kernel's answers (plain or .gz): every id, errno, IOVA and event byte
                     must be equal. Prints the first differing line of each failed seed and "N passed, M failed" (seeds).
  --socket PATH      serves /dev/iommu on a Unix socket to programs that run with the preload library
                     (tools/iommufd-preload) and IOMMUFD_SOCK=PATH, until it is interrupted
  --backend NAME     mock (default): the IOMMU of the kernel's selftests; smmuv3, vtd: emulated hardware
  --release 7.2|7.3  whose test driver the mock is (default 7.2)
  --patience MS      how long a client may take to answer inside an ioctl before it is dropped (default 10000)

Exit status: 0 everything matched, 1 a seed differs, 2 the input cannot be used.`;

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

function replayFile(path: string, io: Io): GoldenResult {
  const name = basename(path);
  const result = replayGolden(parseGolden(readRecording(path), name), name);
  for (const f of result.failed) {
    io.out(`${f.file}:${f.line}: seed ${f.seed}: ${f.asked}`);
    io.out(`  recorded: ${f.want}`);
    io.out(`  got:      ${f.got}`);
  }
  return result;
}

function replay(paths: readonly string[], io: Io): number {
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
  io.out(`${passed} passed, ${failed} failed`);
  if (broken > 0) return EXIT.INPUT;
  return failed === 0 ? EXIT.OK : EXIT.DIFFERS;
}

/** Serves until SIGINT or SIGTERM. */
async function serve(
  path: string,
  backend: string,
  release: string,
  patience: number | undefined,
  io: Io,
): Promise<number> {
  const known = RELEASES.find((r) => r === release);
  if (known === undefined) throw usageError(`--release: expected ${RELEASES.join(' or ')}, found "${release}"`);
  if (!BACKENDS.some((b) => b === backend)) {
    throw usageError(`--backend: expected ${BACKENDS.join(', ')}, found "${backend}"`);
  }
  const server = new IommufdServer({ path, backend, release: known, ...(patience === undefined ? {} : { patience }) });
  // A bug of ours: the client it happened to has lost its connection, the others go on.
  server.onFailure = (e) => io.err(`viommu iommufd: internal error: ${e.stack ?? e.message}`);
  try {
    await server.listen();
  } catch (e) {
    const why = e instanceof Error ? e.message : String(e);
    throw new ViommuError('EINVAL', 'caller', `cannot listen: ${why}`, { path }, e);
  }
  const over = new Promise<number>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => resolve(EXIT.OK));
  });
  io.err(`viommu iommufd: ${backend} on ${path}`);
  try {
    return await over;
  } finally {
    await server.close();
  }
}

/** `viommu iommufd`. */
export const iommufdCommand: Command = {
  name: 'iommufd',
  summary: "the host's iommufd alone: replay recorded kernel answers, or serve /dev/iommu on a socket",
  usage: USAGE,
  async run(args, io) {
    const { values, positionals } = parseArgs({
      args: [...args],
      options: {
        replay: { type: 'string', multiple: true },
        socket: { type: 'string' },
        backend: { type: 'string' },
        patience: { type: 'string' },
        release: { type: 'string' },
      },
      allowPositionals: true,
    });
    if ((values.replay === undefined) === (values.socket === undefined)) {
      throw usageError('expected either --replay FILE... or --socket PATH');
    }
    if (values.replay !== undefined) return replay([...values.replay, ...positionals], io);
    if (positionals.length > 0) throw usageError(`unexpected argument "${positionals[0]}"`);
    const patience = values.patience === undefined ? undefined : Number(values.patience);
    if (patience !== undefined && !(patience > 0)) throw usageError('--patience: expected milliseconds');
    return serve(values.socket ?? '', values.backend ?? 'mock', values.release ?? '7.2', patience, io);
  },
};
