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

/** From the top: what a guest does, what comes of it, what functions do. */
const LANES: readonly Lane[] = [
  LANE.MEMORY,
  LANE.REGISTERS,
  LANE.COMMANDS,
  LANE.HOST,
  LANE.HARDWARE,
  LANE.FAULTS,
  LANE.PAGE_REQUESTS,
  LANE.INTERRUPTS,
  LANE.ACCESSES,
  LANE.NOTES,
];
/** Streams with a row of their own; the others share one. */
const MOST_STREAMS = 12;

/** A moment's row: one for each lane, for accesses one for each of the streams that have most of them. */
export function timelineRows(moments: MomentColumns, header: TraceHeader): TimelineRows {
  const names = new Map(header.devices.map((d) => [d.sid, d.name]));
  const accesses = moments.lanes.find(LANE.ACCESSES);
  /** Moments of each lane by its number; of each stream, for accesses. */
  const ofLane = new Map<number, number>();
  const ofStream = new Map<number, number>();
  for (let n = 0; n < moments.length; n++) {
    const lane = moments.lane.at(n);
    if (lane !== accesses) ofLane.set(lane, (ofLane.get(lane) ?? 0) + 1);
    else ofStream.set(moments.subject.at(n), (ofStream.get(moments.subject.at(n)) ?? 0) + 1);
  }
  const byCount = [...ofStream].toSorted((a, b) => b[1] - a[1]);
  const own = byCount.slice(0, MOST_STREAMS);
  const others = byCount.slice(MOST_STREAMS).reduce((sum, [, count]) => sum + count, 0);
  const rows: TimelineRow[] = [];
  const placeOfLane = new Map<number, number>();
  const placeOfStream = new Map<number, number>();
  for (const lane of LANES) {
    const number = moments.lanes.find(lane);
    if (number !== accesses) {
      const count = ofLane.get(number);
      if (count === undefined) continue;
      placeOfLane.set(number, rows.push({ label: lane, lane, stream: -1, count }) - 1);
    } else {
      for (const [stream, count] of own) {
        const name = names.get(stream);
        const label = `accesses ${hex(stream)}${name === undefined ? '' : ` ${name}`}`;
        placeOfStream.set(stream, rows.push({ label, lane, stream, count }) - 1);
      }
      if (others > 0) rows.push({ label: 'accesses other streams', lane, stream: -1, count: others });
    }
  }
  const rest = rows.findIndex((r) => r.lane === LANE.ACCESSES && r.stream < 0);
  const row = new Uint8Array(moments.length);
  for (let n = 0; n < row.length; n++) {
    const lane = moments.lane.at(n);
    row[n] = lane === accesses ? (placeOfStream.get(moments.subject.at(n)) ?? rest) : placeOfLane.get(lane)!;
  }
  return { rows, row };
}
