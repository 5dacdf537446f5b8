import type { Session } from '../cli/session.ts';
import { type Command, EXIT, usageError } from '../cli/verb.ts';
import { type QtestPiece, QtestReport } from '../conformance/qtest-report.ts';
import { combined, type FuzzPiece, fuzzJson, fuzzLines } from '../fuzz/fuzz-report.ts';
import { type ReplayPiece, ReplayReport } from '../replay/replay-report.ts';
import { type SanitizePiece, SanitizeReport } from '../sanitize/sanitize-report.ts';
import { type Piece, readResults, together, writeResults } from '../shard/results.ts';
import { WHOLE } from '../shard/shard.ts';

/** Tells what one run would have told, by the verb whose results they are. */
const REPORT: Readonly<Record<string, (done: readonly Piece[], io: Session) => number>> = {
  replay(done, io) {
    const report = new ReplayReport(io);
    for (const p of done) report.add(p as ReplayPiece);
    return report.end();
  },
  sanitize(done, io) {
    const report = new SanitizeReport(io);
    for (const p of done) report.add(p as SanitizePiece);
    return report.end();
  },
  'conformance:qtest'(done, io) {
    const report = new QtestReport(io);
    for (const p of done) report.add(p as QtestPiece);
    return report.end();
  },
  fuzz(done, io) {
    let failed = false;
    for (const n of new Set(done.map((p) => p.n))) {
      const all = combined(done.filter((p) => p.n === n) as FuzzPiece[]);
      failed ||= all.found !== null;
      if (io.json) io.out(JSON.stringify(fuzzJson(all)));
      else for (const line of fuzzLines(all)) io.out(line);
    }
    return failed ? EXIT.DIFFERS : EXIT.OK;
  },
};

/** `viommu merge`. */
export const mergeCommand: Command = {
  name: 'merge',
  summary:
    'joins what shards of replay, sanitize, fuzz or conformance:qtest wrote with --results, into the verdict of one run',
  about: `Reads the files that the shards of one campaign wrote (--shard I/N --results FILE) and tells what one run would have told: the
same lines or objects, the same totals, the same exit status. Every shard has to be there, once.`,
  notes: 'Exit status: that of one run; 2 when the files are not one campaign, or not all of it.',
  examples: ['viommu merge shard-1.json shard-2.json shard-3.json', 'viommu merge --json shard-*.json'],
  declare(parser) {
    parser
      .argument('<file...>', 'at least one file of --results')
      .option('--results <file>', 'also writes all of it as one file');
  },
  async run(paths, values: { readonly results?: string }, io) {
    const all = together(paths.map((path) => [path, readResults(path)] as const));
    const report = Object.hasOwn(REPORT, all.verb) ? REPORT[all.verb] : undefined;
    if (report === undefined) throw usageError(`results of "${all.verb}" cannot be joined by this version`);
    if (values.results !== undefined) await writeResults(values.results, { ...all, shard: WHOLE });
    return report(all.done, io);
  },
};
