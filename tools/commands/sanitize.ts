import { parseArgs } from 'node:util';
import { hex, ViommuError } from '../../src/core/errors.ts';
import { type Finding, RULE_IDS, type RuleId, SEVERITIES, type Severity } from '../../src/sanitize/index.ts';
import type { MakeReplayTarget } from '../../src/trace/index.ts';
import { type Command, EXIT, type Io, usageError } from '../cli/command.ts';
import {
  type Filter,
  findingJson,
  lines,
  ruleLines,
  type Sanitized,
  summaryJson,
  summaryTable,
} from '../sanitize/report.ts';
import { sanitizeFile } from '../sanitize/run.ts';
import { symbols } from '../sanitize/symbols.ts';
import { explainTrace } from './explain.ts';

const USAGE = `usage: viommu sanitize [OPTIONS] TRACE...

Judges the driver in viommu-trace files by rules: what it did that lets hardware do the wrong thing, whatever the caches
of the recorded machine happened to hold.

  --json            one JSON object per finding and one summary per recording on standard output
  --rules           list the rules with their sections, and nothing else
  --only RULE       judge by this rule alone (can be given several times)
  --ignore RULE     leave this rule out (can be given several times)
  --at-least LEVEL  error, warning (default) or hint
  --explain N       show tables, host objects and caches at finding N (one recording)
  --vmlinux FILE    name functions and lines of stores whose program counter was recorded (needs addr2line)

Exit status: 0 no finding at that level, 1 findings, 2 the input cannot be used.`;

function rule(text: string, option: string): RuleId {
  const found = RULE_IDS.find((id) => id === text);
  if (found === undefined) throw usageError(`${option}: there is no rule "${text}" (--rules lists them)`);
  return found;
}

interface Values {
  readonly only?: string[] | undefined;
  readonly ignore?: string[] | undefined;
  readonly 'at-least'?: string | undefined;
}

function filterOf(values: Values): Filter {
  const level = values['at-least'] ?? 'warning';
  const atLeast: Severity | undefined = SEVERITIES.find((s) => s === level);
  if (atLeast === undefined) throw usageError(`--at-least: expected error, warning or hint, found "${level}"`);
  const split = (list: string[] | undefined) => (list ?? []).flatMap((t) => t.split(','));
  const only = split(values.only).map((t) => rule(t, '--only'));
  return {
    only: only.length === 0 ? null : new Set(only),
    ignore: new Set(split(values.ignore).map((t) => rule(t, '--ignore'))),
    atLeast,
  };
}

/** `viommu sanitize`; `--explain` shows machines made by `make`. */
export function sanitizeCommand(make: MakeReplayTarget): Command {
  return {
    name: 'sanitize',
    summary: 'what a recorded driver did wrong, by name, whatever the caches happened to hold',
    usage: USAGE,
    async run(args, io) {
      const { values, positionals } = parseArgs({
        args: [...args],
        options: {
          json: { type: 'boolean' },
          rules: { type: 'boolean' },
          only: { type: 'string', multiple: true },
          ignore: { type: 'string', multiple: true },
          'at-least': { type: 'string' },
          explain: { type: 'string' },
          vmlinux: { type: 'string' },
        },
        allowPositionals: true,
      });
      if (values.rules === true) {
        for (const line of ruleLines()) io.out(line);
        return EXIT.OK;
      }
      const filter = filterOf(values);
      if (positionals.length === 0) throw usageError('expected at least one recording');
      if (values.explain !== undefined) return explain(positionals, values.explain, filter, make, io);
      return sanitizeAll(positionals, filter, values.json ?? false, values.vmlinux ?? null, io);
    },
  };
}

/** Judges in order. A file that cannot be used is reported and does not keep the others from being judged. */
async function sanitizeAll(
  paths: readonly string[],
  filter: Filter,
  json: boolean,
  vmlinux: string | null,
  io: Io,
): Promise<number> {
  const done: Sanitized[] = [];
  let broken = 0;
  for (const path of paths) {
    try {
      const s = await sanitizeFile(path, filter);
      const names = vmlinux === null ? new Map<bigint, string>() : await symbols(vmlinux, counters(s));
      const at = (f: Finding) => (f.pc === null ? null : (names.get(f.pc) ?? hex(f.pc)));
      done.push(s);
      if (json) {
        for (const f of s.findings) io.out(JSON.stringify(findingJson(s, f, at(f))));
        io.out(JSON.stringify(summaryJson(s)));
      } else for (const line of lines(s, at)) io.out(line);
    } catch (e) {
      if (!(e instanceof ViommuError)) throw e;
      broken++;
      io.err(`viommu sanitize: ${e.message}`);
    }
  }
  if (!json && done.length > 1) for (const line of ['', ...summaryTable(done)]) io.out(line);
  if (broken > 0) return EXIT.INPUT;
  return done.every((s) => s.findings.length === 0) ? EXIT.OK : EXIT.DIFFERS;
}

function counters(s: Sanitized): bigint[] {
  return [...new Set(s.findings.map((f) => f.pc).filter((pc) => pc !== null))];
}

async function explain(
  paths: readonly string[],
  text: string,
  filter: Filter,
  make: MakeReplayTarget,
  io: Io,
): Promise<number> {
  const [path] = paths;
  if (path === undefined || paths.length > 1) throw usageError('--explain: expected one recording');
  const s = await sanitizeFile(path, filter);
  const found = s.findings[Number(text) - 1];
  if (found === undefined) throw usageError(`--explain ${text}: there are ${s.findings.length} findings`);
  const one: Sanitized = { ...s, findings: [found] };
  for (const line of lines(one, () => null).slice(1, 4)) io.out(line);
  io.out('');
  await explainTrace(path, make, {}, found.events.at(-1) ?? 0, false, io);
  return EXIT.DIFFERS;
}
