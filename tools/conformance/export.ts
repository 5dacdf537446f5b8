/**
 * Exports recordings and reads them with the readers they are for: protoc with Perfetto's published schema must know every
 * field, and every arrow must have both ends; GTKWave's vcd2fst must take the value change dump.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { FORMATS } from '../export/formats.ts';
import { exportTrace } from '../export/run.ts';

const RECORDINGS = ['smmuv3-live', 'vtd-live-scalable-ats', 'vtd-v86-nested'].map(
  (name) => `guest-fixtures/recordings/${name}.ndjson.gz`,
);
const SCHEMA = 'protos/perfetto/trace/trace.proto';
const MOST_TEXT = 2 ** 30;

let failed = 0;
function check(what: string, ok: boolean, why = ''): void {
  process.stdout.write(`${ok ? 'ok  ' : 'FAIL'} ${what}${ok ? '' : `: ${why}`}\n`);
  if (!ok) failed++;
}

function run(tool: string, args: string[], input: Buffer | null, need: string): string {
  try {
    return execFileSync(tool, args, { ...(input === null ? {} : { input }), encoding: 'utf8', maxBuffer: MOST_TEXT });
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOENT') throw new Error(`${tool} is missing: apt-get install ${need}`);
    throw e;
  }
}

/** Every number that follows `name: ` in protoc's text. */
function numbers(text: string, name: string): string[] {
  return [...text.matchAll(new RegExp(`^\\s+${name}: (\\d+)$`, 'gm'))].map(([, n]) => n!).sort();
}

async function written(path: string, to: string, folder: string): Promise<string> {
  const file = join(folder, `${basename(path)}.${to}`);
  await exportTrace(path, makeReplayMachine, {}, FORMATS[to]!.make, file);
  return file;
}

async function main(schema: string): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'viommu-export-'));
  try {
    for (const path of RECORDINGS) {
      const name = basename(path);
      const trace = readFileSync(await written(path, 'perfetto', folder));
      const text = run('protoc', ['-I', schema, '--decode=perfetto.protos.Trace', SCHEMA], trace, 'protobuf-compiler');
      const unknown = text.match(/^\s*\d+[: ].*$/m);
      check(`${name}: the published schema knows every field`, unknown === null, unknown?.[0]);
      const begun = text.match(/type: TYPE_SLICE_BEGIN/g)?.length ?? 0;
      check(
        `${name}: ${begun} slices begin and end`,
        begun > 0 && begun === text.match(/type: TYPE_SLICE_END/g)?.length,
      );
      const from = numbers(text, 'flow_ids');
      check(
        `${name}: ${from.length} arrows have both ends`,
        from.join() === numbers(text, 'terminating_flow_ids').join(),
      );
      const dump = await written(path, 'vcd', folder);
      run('vcd2fst', ['-v', dump, '-f', `${dump}.fst`], null, 'gtkwave');
      const again = run('fst2vcd', ['-f', `${dump}.fst`], null, 'gtkwave');
      const variables = (vcd: string) => vcd.match(/^\$var/gm)?.length ?? 0;
      const before = readFileSync(dump, 'utf8');
      check(`${name}: GTKWave reads all ${variables(before)} signals`, variables(before) === variables(again));
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const { values } = parseArgs({ options: { schema: { type: 'string' } } });
const schema = values.schema ?? process.env.PERFETTO ?? '';
if (!existsSync(join(schema, SCHEMA))) {
  process.stderr.write(
    `${schema === '' ? 'no schema' : `${schema}: no ${SCHEMA} there`}: say --schema FOLDER (or PERFETTO=FOLDER), a checkout of ` +
      'https://github.com/google/perfetto\n',
  );
  process.exitCode = 2;
} else {
  try {
    await main(schema);
    process.exitCode = failed === 0 ? 0 : 1;
  } catch (e) {
    process.stderr.write(`${(e as Error).message}\n`);
    process.exitCode = 1;
  }
}
