import { LANE, type Lane } from '../../../src/history/index.ts';
import type { TraceHeader } from '../../../src/trace/index.ts';
import type { MomentColumns } from './columns.ts';
import { hex } from './streams.ts';

/** A row of the timeline. */
export interface TimelineRow {
  readonly label: string;
  readonly lane: Lane;
  /** Accesses have a row for each stream; -1: all others. */
  readonly stream: number;
  readonly count: number;
}

/** Rows of the timeline, and which of them each moment is in. */
export interface TimelineRows {
  readonly rows: readonly TimelineRow[];
  /** By number of the moment. */
  readonly row: Uint8Array<ArrayBuffer>;
}

const LANES = Object.values(LANE);
/** Streams with a row of their own; the others share one. */
const MOST_STREAMS = 12;

/** A moment's row: one for each lane, for accesses one for each of the streams that have most of them. */
export function timelineRows(moments: MomentColumns, header: TraceHeader): TimelineRows {
  const names = new Map(header.devices.map((d) => [d.sid, d.name]));
  const counts = new Map<string, number>();
  const keyOf = (n: number): string => {
    const lane = moments.lanes.list[moments.lane.at(n)]!;
    return lane === LANE.ACCESSES ? `${lane}\n${moments.subject.at(n)}` : lane;
  };
  for (let n = 0; n < moments.length; n++) counts.set(keyOf(n), (counts.get(keyOf(n)) ?? 0) + 1);
  const streams = [...counts].filter(([k]) => k.includes('\n')).toSorted((a, b) => b[1] - a[1]);
  const others = new Map(streams.slice(MOST_STREAMS).map(([k]) => [k, `${LANE.ACCESSES}\n-1`]));
  for (const [k, count] of streams.slice(MOST_STREAMS)) {
    counts.delete(k);
    counts.set(others.get(k)!, (counts.get(others.get(k)!) ?? 0) + count);
  }
  const order = (k: string) => LANES.indexOf(k.split('\n')[0] as Lane);
  const sorted = [...counts].toSorted(([a], [b]) => order(a) - order(b) || counts.get(b)! - counts.get(a)!);
  const rows = sorted.map(([key, count]) => {
    const [lane, text] = key.split('\n') as [Lane, string | undefined];
    const stream = text === undefined ? -1 : Number(text);
    const name = names.get(stream);
    const whose = stream < 0 ? 'other streams' : `${hex(stream)}${name === undefined ? '' : ` ${name}`}`;
    return { label: text === undefined ? lane : `accesses ${whose}`, lane, stream, count };
  });
  const place = new Map(sorted.map(([key], n) => [key, n]));
  const row = new Uint8Array(moments.length);
  for (let n = 0; n < row.length; n++) {
    const key = keyOf(n);
    row[n] = place.get(others.get(key) ?? key)!;
  }
  return { rows, row };
}
