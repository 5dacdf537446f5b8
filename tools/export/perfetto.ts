import { LANE, type Lane, type Moment } from '../../src/history/index.ts';
import type { MakeExporter } from './exporter.ts';
import { TRACE } from './perfetto-schema.ts';

/** Nanoseconds a moment lasts: a recording knows an order and no times. */
const MOMENT_NS = 1000;
const SEQUENCE = 1;
/** Moments between two occasions to send on what was written. */
const DRAIN_EVERY = 256;
/** SEQ_INCREMENTAL_STATE_CLEARED: a reader begins here. */
const STATE_CLEARED = 1;
const TYPE = { SLICE_BEGIN: 1, SLICE_END: 2 } as const;
const EXPLICIT_ORDER = 3;
const LANES: readonly Lane[] = Object.values(LANE);
/** Lanes that have a track for each stream. */
const BY_STREAM: ReadonlySet<Lane> = new Set([LANE.ACCESSES, LANE.PAGE_REQUESTS]);
const PROCESS = 1;

/** Numbers of the effects of each moment that has any. */
function effects(moments: readonly Moment[]): Map<number, number[]> {
  const found = new Map<number, number[]>();
  for (const { n, cause } of moments) {
    if (cause < 0) continue;
    const list = found.get(cause);
    if (list === undefined) found.set(cause, [n]);
    else list.push(n);
  }
  return found;
}

/**
 * Perfetto's TrackEvent protobuf: a track per lane (and per stream, for accesses), a slice of one microsecond per moment - a
 * recording has an order and no times - and a flow arrow from each moment to each it caused. All moments are kept until the end:
 * where an arrow begins its end must be known.
 */
export const perfetto: MakeExporter = ({ file, nameOf }, write) => {
  const moments: Moment[] = [];
  const tracks = new Map<string, number>();
  const packet = (fields: object) =>
    write(TRACE.encode({ packet: [{ trustedPacketSequenceId: SEQUENCE, ...fields }] }).finish());

  const track = (m: Moment): number => {
    const split = BY_STREAM.has(m.lane) && m.stream >= 0;
    const key = split ? `${m.lane} ${m.stream}` : m.lane;
    const known = tracks.get(key);
    if (known !== undefined) return known;
    const uuid = PROCESS + 1 + tracks.size;
    tracks.set(key, uuid);
    const name = split ? `${m.lane} of ${nameOf(m.stream)}` : m.lane;
    packet({
      trackDescriptor: {
        uuid,
        name,
        parentUuid: PROCESS,
        siblingOrderRank: LANES.indexOf(m.lane) * 0x1_0000 + Math.max(m.stream, 0),
      },
    });
    return uuid;
  };

  const slice = (m: Moment, caused: readonly number[]): void => {
    const trackUuid = track(m);
    const annotations = [
      { name: 'event', intValue: m.event },
      { name: 'moment', intValue: m.n },
      ...Object.entries(m.args).map(([name, v]) =>
        typeof v === 'number' ? { name, intValue: v } : { name, stringValue: v },
      ),
    ];
    packet({
      timestamp: m.n * MOMENT_NS,
      trackEvent: {
        type: TYPE.SLICE_BEGIN,
        trackUuid,
        categories: [m.lane],
        name: m.name,
        debugAnnotations: annotations,
        // An arrow is a flow of its own, named after the moment it ends at: numbers from 1.
        flowIds: caused.map((n) => n + 1),
        terminatingFlowIds: m.cause < 0 ? [] : [m.n + 1],
      },
    });
    packet({ timestamp: (m.n + 1) * MOMENT_NS, trackEvent: { type: TYPE.SLICE_END, trackUuid } });
  };

  return {
    moment: (m) => void moments.push(m),
    *end() {
      const process = { pid: 1, processName: `viommu: ${file}` };
      packet({
        sequenceFlags: STATE_CLEARED,
        trackDescriptor: { uuid: PROCESS, process, childOrdering: EXPLICIT_ORDER },
      });
      const caused = effects(moments);
      for (const m of moments) {
        slice(m, caused.get(m.n) ?? []);
        if (m.n % DRAIN_EVERY === 0) yield;
      }
      yield;
    },
  };
};
