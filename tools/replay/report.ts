import { COLUMNS, type Column } from '../../src/trace/index.ts';
import type { Session } from '../cli/session.ts';
import { table } from '../cli/table.ts';
import type { Replayed } from './run.ts';

/** What is shown of a replayed recording: of its header only which IOMMU it is of. */
export type ShownReplay = Omit<Replayed, 'header'> & { readonly header: Pick<Replayed['header'], 'iommu'> };

/** One object per recording, for programs. */
export function toJson(r: ShownReplay): object {
  const c = r.columns;
  return {
    trace: r.file,
    iommu: r.header.iommu,
    ok: r.ok,
    reads: c.reads,
    translations: c.translations,
    faults: c.faults,
    records: c.records,
    interrupts: c.interrupts,
    commands: sorted(r.commands),
    hostOps: sorted(r.hostOps),
    seconds: Math.round(r.seconds * 1000) / 1000,
  };
}

function sorted(counts: ReadonlyMap<string, number>): Record<string, number> {
  return Object.fromEntries([...counts].toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

function cell(c: Column): string {
  if (c.total === 0) return '-';
  return c.total === c.matched ? `${c.total}` : `${c.matched} of ${c.total}`;
}

function sum(counts: ReadonlyMap<string, number>): number {
  let n = 0;
  for (const count of counts.values()) n += count;
  return n;
}

/** All recordings as one table. */
export function summary(all: readonly ShownReplay[], paint: Session['paint']): string[] {
  const head = ['recording', 'events', ...COLUMNS, 'commands', 'host ops', 'seconds', ''];
  const rows = all.map((r) => [
    r.file.replace(/\.ndjson\.gz$/, ''),
    `${r.events}`,
    ...COLUMNS.map((c) => cell(r.columns[c])),
    `${sum(r.commands)}`,
    `${sum(r.hostOps)}`,
    r.seconds.toFixed(2),
    r.ok ? 'matches' : 'DIFFERS',
  ]);
  return table([head, ...rows]).map((line) =>
    line.replace(/(?:matches|DIFFERS)$/, (verdict) => paint(verdict === 'matches' ? 'green' : 'red', verdict)),
  );
}

/** What differed, as lines of a report. */
export function differences(r: ShownReplay): string[] {
  if (r.ok) return [];
  const lines = [`${r.file}: ${r.differing} differences; the first:`];
  for (const d of r.differences) {
    const where = d.column === 'commands' ? 'command counts' : `event ${d.i}`;
    lines.push(`  ${where}: ${d.what}`, `    expected ${d.expected}`, `    got      ${d.got}`);
  }
  return lines;
}
