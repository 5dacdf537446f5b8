import { hex } from '../../src/core/errors.ts';
import { type Finding, RULE_IDS, type RuleId, SEVERITIES, type Severity } from '../../src/sanitize/index.ts';
import type { MakeReplayTarget } from '../../src/trace/index.ts';
import { oneOf, several } from '../cli/parser.ts';
import type { Session } from '../cli/session.ts';
import { type Command, EXIT, usageError } from '../cli/verb.ts';
import { type Filter, findingJson, lines, ruleLines, rulesJson, type Sanitized } from '../sanitize/report.ts';
import { sanitizeFile } from '../sanitize/run.ts';
import { judged, notJudged, painted, type SanitizePiece, SanitizeReport } from '../sanitize/sanitize-report.ts';
import { symbols } from '../sanitize/symbols.ts';
import { declareShard, type ShardValues } from '../shard/options.ts';
import { writeResults } from '../shard/results.ts';
import { belongs, WHOLE } from '../shard/shard.ts';
import { explainTrace } from './explain.ts';

function rule(text: string, option: string): RuleId {
  const found = RULE_IDS.find((id) => id === text);
  if (found === undefined) throw usageError(`${option}: there is no rule "${text}" (--rules lists them)`);
  return found;
}

interface Values {
  readonly rules?: boolean;
  readonly only?: readonly string[];
  readonly ignore?: readonly string[];
  readonly atLeast?: Severity;
  readonly explain?: string;
  readonly vmlinux?: string;
}

function filterOf(values: Values): Filter {
  const split = (list: readonly string[] | undefined) => (list ?? []).flatMap((t) => t.split(','));
  const only = split(values.only).map((t) => rule(t, '--only'));
  return {
    only: only.length === 0 ? null : new Set(only),
    ignore: new Set(split(values.ignore).map((t) => rule(t, '--ignore'))),
    atLeast: values.atLeast ?? 'warning',
  };
}

/** `viommu sanitize`; `--explain` shows machines made by `make`. */
export function sanitizeCommand(make: MakeReplayTarget): Command {
  return {
    name: 'sanitize',
    summary: 'what a recorded driver did wrong, by name, whatever the caches happened to hold',
    about: `Judges the driver in viommu-trace files by rules: what it did that lets hardware do the wrong thing, whatever the caches
of the recorded machine happened to hold. With --json: one object per finding and one summary per recording.`,
    notes: 'Exit status: 0 no finding at that level, 1 findings, 2 the input cannot be used.',
    examples: ['viommu sanitize --at-least hint boot.ndjson.gz', 'viommu sanitize --explain 1 boot.ndjson.gz'],
    declare(parser) {
      const ruled = (flags: string, text: string) => {
        const option = parser.createOption(flags, text).argParser(several);
        option.argChoices = [...RULE_IDS];
        return option;
      };
      parser
        .argument('[trace...]', 'recordings (- is the standard input)')
        .option('--rules', 'list the rules with their sections, and nothing else')
        .addOption(ruled('--only <rule>', 'judge by this rule alone (can be given several times)'))
        .addOption(ruled('--ignore <rule>', 'leave this rule out (can be given several times)'))
        .addOption(oneOf('--at-least <level>', 'error, warning (default) or hint', SEVERITIES))
        .option('--explain <n>', 'show tables, host objects and caches at finding N (one recording)')
        .option(
          '--vmlinux <file>',
          'name functions and lines of stores whose program counter was recorded (needs addr2line)',
        );
      declareShard(parser);
    },
    async run(paths, values: Values & ShardValues, io) {
      if (values.rules === true) {
        for (const line of io.json ? rulesJson() : ruleLines()) io.out(line);
        return EXIT.OK;
      }
      const filter = filterOf(values);
      if (paths.length === 0) throw usageError('expected at least one recording');
      const vmlinux = values.vmlinux ?? null;
      if (values.explain !== undefined) return explain(paths, values.explain, filter, vmlinux, make, io);
      return sanitizeAll(paths, filter, values, io);
    },
  };
}

/** Judges in order. A file that cannot be used is reported and does not keep the others from being judged. */
async function sanitizeAll(
  paths: readonly string[],
  filter: Filter,
  values: Values & ShardValues,
  io: Session,
): Promise<number> {
  const { shard = WHOLE, vmlinux, results } = values;
  const report = new SanitizeReport(io);
  const done: SanitizePiece[] = [];
  for (const [n, path] of paths.entries()) {
    if (!belongs(shard, n)) continue;
    const piece = await sanitizeOne(n, path, filter, vmlinux ?? null, io).catch((e) => notJudged(n, e));
    report.add(piece);
    if (results !== undefined) done.push(piece);
  }
  if (results !== undefined) {
    const { only, ignore, atLeast } = filter;
    const campaign = {
      only: only === null ? null : [...only],
      ignore: [...ignore],
      atLeast,
      vmlinux: vmlinux ?? null,
      inputs: paths,
    };
    await writeResults(results, { verb: 'sanitize', campaign, pieces: paths.length, shard, done });
  }
  return report.end();
}

async function sanitizeOne(
  n: number,
  path: string,
  filter: Filter,
  vmlinux: string | null,
  io: Session,
): Promise<SanitizePiece> {
  const s = await sanitizeFile(path, filter, (events) => io.progress(`${path}: ${events} events`));
  return judged(n, s, await places(s, vmlinux));
}

/** Where the store of a finding stands in the driver's program, in words; null: that was not recorded. */
async function places(s: Sanitized, vmlinux: string | null): Promise<(f: Finding) => string | null> {
  const counters = [...new Set(s.findings.map((f) => f.pc).filter((pc) => pc !== null))];
  const names = vmlinux === null ? new Map<bigint, string>() : await symbols(vmlinux, counters);
  return (f) => (f.pc === null ? null : (names.get(f.pc) ?? hex(f.pc)));
}

async function explain(
  paths: readonly string[],
  text: string,
  filter: Filter,
  vmlinux: string | null,
  make: MakeReplayTarget,
  io: Session,
): Promise<number> {
  const [path] = paths;
  if (path === undefined || paths.length > 1) throw usageError('--explain: expected one recording');
  if (path === '-') throw usageError('--explain: expected a file, standard input cannot be read twice');
  const s = await sanitizeFile(path, filter);
  const found = s.findings[Number(text) - 1];
  const { length } = s.findings;
  if (found === undefined)
    throw usageError(`--explain ${text}: there ${length === 1 ? 'is one finding' : `are ${length} findings`}`);
  const at = await places(s, vmlinux);
  if (io.json) io.out(JSON.stringify(findingJson(s, found, at(found))));
  // Three lines each, below the one that counts.
  else for (const line of lines(s, at).slice(3 * Number(text) - 2, 3 * Number(text) + 1)) io.out(painted(line, io));
  if (!io.json) io.out('');
  await explainTrace(path, make, {}, found.events.at(-1) ?? 0, false, io);
  return EXIT.DIFFERS;
}
