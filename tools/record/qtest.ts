import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ViommuError } from '../../src/core/errors.ts';
import { beforeLeaving, onSignals } from '../cli/leaving.ts';
import { openOutput } from '../files/output.ts';
import { packageFolder } from '../package-folder.ts';

/** What a client of qtest did to machines of ours. */
export interface RecordedClient {
  /** One recording for each machine it started, in their order of ending. */
  readonly outputs: readonly string[];
  /** Its exit status; null: a signal ended it. */
  readonly status: number | null;
}

/** `x.ndjson.gz` for the first machine, then `x-2.ndjson.gz`. */
function nameOf(output: string, n: number): string {
  return n === 0 ? output : output.replace(/((?:\.ndjson)?(?:\.gz)?)$/, `-${n + 1}$1`);
}

/**
 * Runs a client of qtest with our machines in the place of QEMU (QTEST_QEMU_BINARY), each of which leaves a recording.
 * @throws ViommuError `E_MISSING` when it cannot be run or started no machine with an IOMMU, `EIO`.
 */
export async function recordClient(words: readonly string[], arch: string, output: string): Promise<RecordedClient> {
  const [command = '', ...args] = words;
  const folder = mkdtempSync(join(tmpdir(), 'viommu-record-'));
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  const gone = beforeLeaving(remove);
  try {
    const QTEST_QEMU_BINARY = join(packageFolder(), `tools/bin/viommu-system-${arch}`);
    const env = { ...process.env, QTEST_QEMU_BINARY, VIOMMU_RECORD: folder };
    const child = spawn(command, args, { stdio: 'inherit', env });
    onSignals((signal) => child.kill(signal));
    const status = await new Promise<number | null>((done, fail) => {
      child.once('error', (e) =>
        fail(new ViommuError('E_MISSING', 'caller', `${command} cannot be run: ${e.message}`, {}, e)),
      );
      child.once('close', (code) => done(code));
    });
    const outputs: string[] = [];
    for (const [n, file] of readdirSync(folder).toSorted().entries()) {
      const path = nameOf(output, n);
      const out = openOutput(path, path.endsWith('.gz'));
      out.write(readFileSync(join(folder, file)));
      await out.finished();
      outputs.push(path);
    }
    if (outputs.length === 0)
      throw new ViommuError(
        'E_MISSING',
        'caller',
        `${command} started no machine with an IOMMU: it runs $QTEST_QEMU_BINARY?`,
      );
    return { outputs, status };
  } finally {
    remove();
    gone();
  }
}
