import { writeFileSync } from 'node:fs';
import { type Command, EXIT, type Session, usageError } from '../cli/command.ts';
import { main } from '../cli/main.ts';
import { atLeast, several } from '../cli/parser.ts';
import { table } from '../cli/table.ts';
import { type BenchCase, type Measured, titleOf } from './case.ts';
import { CASES } from './cases/index.ts';
import { GATES, REFERENCE_WALK_NS } from './gates.ts';
import { type Judgement, judge, scaled, type Verdict, words } from './judge.ts';
import { profiled } from './profile.ts';
import { runAlone } from './run.ts';
import { drawing } from './svg.ts';

const NOT_ASKED: Judgement = { verdicts: [], unmeasured: [] };

function chosen(only: readonly string[]): readonly BenchCase[] {
  if (only.length === 0) return CASES;
  const titles = new Set(CASES.map(titleOf).filter((t) => only.some((text) => t.includes(text))));
  for (const g of GATES) if (g.of !== undefined && titles.has(g.title)) titles.add(g.of);
  return CASES.filter((c) => titles.has(titleOf(c)));
}

function row(m: Measured): string[] {
  return [
    m.title,
    words(m.value, m.unit),
    `${words(m.low, m.unit)} - ${words(m.high, m.unit)}`,
    m.unit === 'ns' || m.unit === 'ms' ? words(scaled(m), m.unit) : '',
    m.heap === null ? '' : words(m.heap, 'B'),
  ];
}

function verdictRow(v: Verdict): string[] {
  return [v.ok ? 'ok' : 'FAILS', v.title, v.figure, `at most ${v.atMost}`, v.because];
}

async function measureAll(cases: readonly BenchCase[], rounds: number, io: Session): Promise<Measured[]> {
  const rows: Measured[] = [];
  for (const c of cases) {
    io.note(`measuring ${titleOf(c)}`);
    rows.push(await runAlone(c, rounds));
  }
  return rows;
}

interface Values {
  readonly only?: readonly string[];
  readonly gates?: boolean;
  readonly svg?: string;
  readonly profile?: boolean;
  readonly rounds?: number;
  readonly list?: boolean;
}

const bench: Command = {
  name: 'bench',
  summary: 'measure',
  invoked: 'npm run bench --',
  about: `CPU time of each row, each in a process of its own, in turns with a plain 4-level array walk in the same process: the median
with its quartiles, and what it would be on a machine whose walk takes ${REFERENCE_WALK_NS} ns.`,
  notes: 'With --json: one object per row, and with --gates one per gate.',
  examples: ['npm run bench -- --only "IOTLB page"'],
  declare(parser) {
    parser
      .option(
        '--only <text>',
        'rows whose title holds it (several: any of them), and what their gates compare them with',
        several,
      )
      .option(
        '--gates',
        'judges: every gate with figure and verdict, status 1 when one fails, 2 when none could be judged',
      )
      .option('--svg <file>', 'draws the rows as a page')
      .option(
        '--profile',
        'instead of measuring: in which functions the time of the rows goes, and which of them allocate',
      )
      .option('--rounds <n>', 'default 7', atLeast(1))
      .option('--list', 'only the titles');
  },
  async run(_args, values: Values, io) {
    const { rounds = 7 } = values;
    if (rounds > 1000) throw usageError('--rounds: expected 1 to 1000');
    const only = values.only ?? [];
    const cases = chosen(only);
    if (cases.length === 0) throw usageError(`no row has ${only.join(' or ')} in its title`);
    if (values.list === true) {
      for (const c of cases) io.out(titleOf(c));
      return EXIT.OK;
    }
    if (values.profile === true) {
      for (const c of cases) if (!('unit' in c)) for (const line of await profiled(c)) io.out(line);
      return EXIT.OK;
    }
    const rows = await measureAll(cases, rounds, io);
    const { verdicts, unmeasured } = values.gates === true ? judge(rows) : NOT_ASKED;
    if (io.json) {
      for (const m of rows) io.out(JSON.stringify({ ...m, scaled: scaled(m) }));
      for (const v of verdicts) io.out(JSON.stringify({ gate: v.title, ...v }));
    } else {
      const head = ['row', 'median', 'quartiles', `at ${REFERENCE_WALK_NS} ns`, 'heap'];
      for (const line of table([head, ...rows.map(row)])) io.out(line);
      io.out('');
      for (const line of table(verdicts.map(verdictRow))) io.out(line);
    }
    if (values.svg !== undefined) writeFileSync(values.svg, drawing(rows));
    const failed = verdicts.filter((v) => !v.ok).length;
    if (values.gates === true) {
      io.err(
        `${verdicts.length} gates judged, ${failed} failed; ${unmeasured.length} not judged, their rows were not measured`,
      );
      if (verdicts.length === 0) return EXIT.INPUT;
    }
    return failed === 0 ? EXIT.OK : EXIT.DIFFERS;
  },
};

await main([bench], ['bench', ...process.argv.slice(2)]);
