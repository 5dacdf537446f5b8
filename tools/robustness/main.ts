import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { table } from '../cli/table.ts';
import { type ReportLine, ROWS, type Sizes } from './rows.ts';

const HELP = `usage: npm run robustness -- [--short] [--only ROW]... [--minutes N] [--accesses N] [--inputs N] [--clients N] [--seed S]

Prints one report: what hostile guests, failing parts, random inputs and hostile clients of the server came to.

  --short       a minute instead of an hour: 100,000 accesses, 2 inputs of each fuzz target, 100 clients
  --only ROW    one part of it, and others that are named so; several processes can share the work:
${ROWS.map((r) => `                  ${r.name.padEnd(9)} ${r.summary}`).join('\n')}
  --minutes N   a row begins nothing more after so long, and says how far it came (default: as long as it takes)
  --accesses N  accesses of hostile guests (default 50,000,000)
  --inputs N    inputs of each fuzz target (default 2,000)
  --clients N   clients of the server (default 1,000)
  --seed S      any integer (default 1)

Example:  npm run robustness -- --only clients --only latency

Exit status: 0 everything holds, 1 something does not, 2 the command line cannot be used.`;

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      short: { type: 'boolean', default: false },
      only: { type: 'string', multiple: true },
      minutes: { type: 'string' },
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
  const minutes = values.minutes === undefined ? Number.POSITIVE_INFINITY : Number(values.minutes);
  if (!(minutes > 0)) throw new TypeError(`--minutes: expected a number, found "${values.minutes}"`);
  const seed = Number(values.seed);
  if (!Number.isInteger(seed)) throw new TypeError(`--seed: expected an integer, found "${values.seed}"`);
  const sizes: Sizes = {
    accesses: size(values.accesses, 50_000_000, 100_000),
    inputs: size(values.inputs, 2000, 2),
    clients: size(values.clients, 1000, 100),
    failing: short ? 20 : 1000,
    calls: short ? 100 : 500,
    rounds: short ? 3 : 9,
    crowding: short ? 3000 : 30_000,
    milliseconds: minutes * 60_000,
    seed,
  };
  const names = ROWS.map((r) => r.name);
  const unknown = values.only?.find((name) => !names.includes(name));
  if (unknown !== undefined) throw new TypeError(`there is no row "${unknown}": ${names.join(', ')}`);

  const rows: ReportLine[] = [];
  for (const row of ROWS) {
    if (values.only !== undefined && !values.only.includes(row.name)) continue;
    for (const f of await row.run(sizes, (line) => console.error(`     ${line}`))) {
      rows.push(f);
      console.error(`${f.holds ? 'ok  ' : 'FAIL'} ${f.what}: ${f.found}`);
    }
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
