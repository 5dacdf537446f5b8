import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { table } from '../cli/table.ts';
import { fuzz } from '../fuzz/fuzz.ts';
import { TARGETS } from '../fuzz/targets/index.ts';
import { failuresSurvived, hostileAccesses } from './hostile-accesses.ts';
import { HOSTILE } from './hostile-client.ts';
import { crowd, latencies } from './server-load.ts';

const HELP = `usage: npm run robustness -- [--short] [--accesses N] [--inputs N] [--clients N] [--seed S]

Prints one report: what hostile guests, failing parts, random inputs and hostile clients of the server came to.

  --short       a minute instead of an hour: 100,000 accesses, 2 inputs of each fuzz target, 100 clients
  --accesses N  accesses of hostile guests (default 50,000,000)
  --inputs N    inputs of each fuzz target (default 2,000)
  --clients N   clients of the server (default 1,000)
  --seed S      any integer (default 1)

Exit status: 0 everything holds, 1 something does not, 2 the command line cannot be used.`;

/** Milliseconds one access may cost, and what the heap may grow by while a machine is used. */
const WORST_MS = 20;
const GROWTH_BYTES = 16 << 20;
const RATIO = 2;

interface Row {
  readonly what: string;
  readonly found: string;
  readonly wanted: string;
  readonly holds: boolean;
}

const rows: Row[] = [];

function report(what: string, found: string, wanted: string, holds: boolean): void {
  rows.push({ what, found, wanted, holds });
  console.error(`${holds ? 'ok  ' : 'FAIL'} ${what}: ${found}`);
}

const thousands = (n: number): string => Math.round(n).toLocaleString('en-US');

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      short: { type: 'boolean', default: false },
      accesses: { type: 'string' },
      inputs: { type: 'string' },
      clients: { type: 'string' },
      seed: { type: 'string', default: '1' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return 0;
  }
  const { short } = values;
  const size = (given: string | undefined, full: number, less: number): number => {
    const n = given === undefined ? (short ? less : full) : Number(given);
    if (!Number.isInteger(n) || n < 1) throw new TypeError(`expected a number, found "${given}"`);
    return n;
  };
  const accesses = size(values.accesses, 50_000_000, 100_000);
  const inputs = size(values.inputs, 2000, 2);
  const clients = size(values.clients, 1000, 100);
  const seed = Math.trunc(Number(values.seed));

  const hostile = hostileAccesses(accesses, seed, (done) => console.error(`     ${thousands(done)} accesses`));
  const rate = thousands(hostile.accesses / hostile.seconds);
  report(
    'accesses of hostile guests',
    `${thousands(hostile.accesses)} on ${hostile.machines} machines, ${rate} a second`,
    'no exception, nothing of another VM',
    true,
  );
  report(
    'dearest single access',
    `${hostile.worst.toFixed(1)} ms (${hostile.worstOf})`,
    `${WORST_MS} ms`,
    hostile.worst <= WORST_MS,
  );
  report(
    'heap growth of a machine',
    `${thousands(hostile.growth / 1024)} KiB`,
    `${GROWTH_BYTES >> 20} MiB`,
    hostile.growth <= GROWTH_BYTES,
  );
  const failures = failuresSurvived(short ? 20 : 1000, seed);
  report(
    'failures survived',
    `${thousands(failures.failed)} in ${thousands(failures.accesses)} accesses`,
    'no exception',
    failures.failed > 0,
  );

  let tried = 0;
  const found: string[] = [];
  for (const target of TARGETS) {
    if ((target.missing?.() ?? null) !== null) continue;
    const result = await fuzz(target, { seed, inputs });
    tried += result.inputs;
    if (result.found !== null) found.push(`${target.name} ${result.found.index}`);
  }
  report(
    'random inputs tried',
    `${thousands(tried)} on ${TARGETS.length} targets`,
    'nothing found',
    found.length === 0,
  );
  for (const f of found)
    console.error(`     found: seed ${seed}, ${f}: npm run fuzz -- ${f.split(' ')[0]} --seed ${seed}`);

  const c = await crowd(clients, short ? 4 : 10, short ? 3000 : 30_000, seed);
  report(
    'clients of the server',
    `${thousands(c.clients)}, ${thousands(c.killed)} killed, ${thousands(c.calls)} calls of the others`,
    'none refused, nothing left',
    c.refused + c.left + c.broken === 0 && c.calls > 0,
  );
  for (const l of await latencies(HOSTILE, short ? 3 : 9, short ? 100 : 500)) {
    report(
      `latency beside a client that is ${l.kind}`,
      `${l.ratio.toFixed(2)}x (${l.alone.toFixed(2)} ms, ${l.beside.toFixed(2)} ms)`,
      `${RATIO}x`,
      l.ratio <= RATIO,
    );
  }

  console.log(`robustness: seed ${seed}, Node ${process.version}, ${cpus().length} cores (${cpus()[0]?.model ?? ''})`);
  console.log('');
  for (const line of table([
    ['', 'found', 'holds'],
    ...rows.map((r) => [r.what, `${r.found} (${r.wanted})`, r.holds ? 'yes' : 'NO']),
  ]))
    console.log(line);
  return rows.every((r) => r.holds) ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (e) {
  if (!(e instanceof TypeError)) throw e;
  console.error(`robustness: ${e.message}`);
  process.exitCode = 2;
}
