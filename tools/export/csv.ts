import { LANE } from '../../src/history/index.ts';
import type { MakeExporter } from './exporter.ts';

const COLUMNS = [
  'moment',
  'event',
  'stream',
  'device',
  'access',
  'iova',
  'out',
  'perm',
  'tlb',
  'refused',
  'tables',
  'store',
] as const;

/** A field as RFC 4180 wants it. */
function quoted(value: string | number): string {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/**
 * One line per DMA access, RFC 4180 with a header line. `out` and `perm` are of the recording, `refused` the fault's name;
 * `tlb` says whether the physical IOMMU had it cached; `tables` why the guest's tables, as they are at that moment, do not map
 * it; `store` is the moment of the guest's last store to an entry on its way.
 */
export const csv: MakeExporter = (_, write) => {
  write(`${COLUMNS.join(',')}\r\n`);
  return {
    moment(m) {
      if (m.lane !== LANE.ACCESSES) return;
      const values = {
        ...m.args,
        moment: m.n,
        event: m.event,
        stream: m.stream,
        access: m.name,
        store: m.cause < 0 ? '' : m.cause,
      };
      write(`${COLUMNS.map((c) => quoted((values as Record<string, string | number>)[c] ?? '')).join(',')}\r\n`);
    },
  };
};
