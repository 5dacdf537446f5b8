import { parseArgs } from 'node:util';
import { type Command, EXIT, runCommand, usageError } from '../cli/command.ts';
import { table } from '../cli/table.ts';
import { type Measured, measure } from './case.ts';
import { CASES } from './cases.ts';
import { ReferenceWalk } from './reference.ts';

const USAGE = `usage: npm run bench -- [--json] [--rounds N] [PART-OF-A-NAME...]

CPU time of each case, and its ratio to a plain 4-level array walk measured in the same rounds.`;

function row(m: Measured): string[] {
  const judged = (value: number, atMost: number | null, unit: string) =>
    atMost === null ? '' : `${value <= atMost ? 'within' : 'ABOVE'} ${atMost}${unit}`;
  return [
    m.name,
    `${m.ns.toFixed(1)} ns`,
    `${m.ratio.toFixed(2)}x`,
    judged(m.ratio, m.atMost, 'x'),
    `${Math.round(m.perSecond)}/s`,
    `${m.heap.toFixed(2)} B`,
    judged(m.heap, m.heapAtMost, ' B'),
  ];
}

const bench: Command = {
  name: 'bench',
  summary: 'measure',
  usage: USAGE,
  async run(args, io) {
    const { values, positionals } = parseArgs({
      args: [...args],
      options: { json: { type: 'boolean' }, rounds: { type: 'string' } },
      allowPositionals: true,
    });
    const rounds = Number(values.rounds ?? 7);
    if (!Number.isInteger(rounds) || rounds < 1 || rounds > 1000) throw usageError('--rounds: expected 1 to 1000');
    const chosen = CASES.filter((c) => positionals.length === 0 || positionals.some((p) => c.name.includes(p)));
    if (chosen.length === 0) throw usageError(`no case is called ${positionals.join(' or ')}`);
    const reference = new ReferenceWalk();
    const results: Measured[] = [await measure({ name: 'reference walk', setup: () => reference }, reference, rounds)];
    for (const c of chosen) {
      io.err(`measuring ${c.name}`);
      const m = await measure(c, reference, rounds);
      results.push(m);
      if (values.json === true) io.out(JSON.stringify(m));
    }
    if (values.json !== true)
      for (const line of table([['case', 'time', 'ratio', '', 'rate', 'heap', ''], ...results.map(row)])) io.out(line);
    return EXIT.OK;
  },
};

process.exitCode = await runCommand([bench], ['bench', ...process.argv.slice(2)], {
  out: (line) => void process.stdout.write(`${line}\n`),
  err: (line) => void process.stderr.write(`${line}\n`),
});
