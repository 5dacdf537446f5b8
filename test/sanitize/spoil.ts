import { type Finding, Sanitizer } from '../../src/sanitize/index.ts';
import type { TraceEvent, TraceHeader } from '../../src/trace/index.ts';
import { loadTrace } from '../../src/trace/node.ts';

export interface Recording {
  readonly header: TraceHeader;
  readonly events: readonly TraceEvent[];
  /** Stores are told when the IOMMU looks, as differences. */
  readonly seen: boolean;
}

const cache = new Map<string, Recording>();

/** A recording of guest-fixtures, in memory. */
export async function recording(name: string): Promise<Recording> {
  let r = cache.get(name);
  if (r === undefined) {
    const { header, events } = await loadTrace(`guest-fixtures/recordings/${name}.ndjson.gz`);
    r = { header, events, seen: events.some((e) => e.t === 'page' && e.kind === 'seen') };
    cache.set(name, r);
  }
  return r;
}

/** The findings on a recording, as `rule` or, counted, by rule. */
export function judge(header: TraceHeader, events: readonly TraceEvent[]) {
  const s = new Sanitizer(header);
  for (const e of events) s.event(e);
  return s.finish();
}

/** How often each thing was found: what is one finding, by rule, stream and PASID. */
export type Baseline = ReadonlyMap<string, number>;

function baseline(all: readonly Finding[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const f of all) {
    const key = `${f.rule}/${f.stream}/${f.pasid}`;
    counts.set(key, (counts.get(key) ?? 0) + f.count);
  }
  return counts;
}

/** What is found in a recording as it is. */
export function before(r: Recording): Baseline {
  return baseline(judge(r.header, r.events));
}

/** Rules of error level that are found in spoiled events and not, or not as often, in the recording as it is. */
export function planted(r: Recording, events: readonly TraceEvent[], known: Baseline): string[] {
  const found = judge(r.header, events).filter((f) => f.severity === 'error');
  const more = [...baseline(found)].filter(([key, count]) => count > (known.get(key) ?? 0));
  return [...new Set(more.map(([key]) => key.split('/')[0]!))];
}

/** Rules of error level that were found, sorted. */
export function errors(header: TraceHeader, events: readonly TraceEvent[]): string[] {
  const rules = judge(header, events)
    .filter((f) => f.severity === 'error')
    .map((f) => f.rule);
  return [...new Set(rules)].sort();
}

/** A command or descriptor in its queue: the stores that wrote it and the doorbell that passed it. */
export interface Submitted {
  /** Indices of the stores, by 8-byte word; -1: not stored anew. */
  readonly stores: readonly number[];
  readonly doorbell: number;
  readonly words: readonly [number, number, number, number];
}

/** Reads the commands of a recording as its guest submits them. */
export function submitted(r: Recording): Submitted[] {
  const memory = new Map<number, { lo: number; hi: number; at: number }>();
  const smmu = r.header.iommu === 'smmuv3';
  const out: Submitted[] = [];
  let base = 0;
  let entries = 0;
  let bytes = 16;
  let tail = 0;
  const regs = new Map<number, [number, number]>();
  const address = (w: readonly [number, number]) =>
    (w[1] & 0xf_ffff) * 2 ** 32 + ((w[0] & (smmu ? ~31 : ~0xfff)) >>> 0);
  const take = (to: number, doorbell: number) => {
    for (; tail !== to; tail = (tail + 1) % entries) {
      const at = base + tail * bytes;
      const [a, b] = [memory.get(at), memory.get(at + 8)];
      out.push({
        stores: [a?.at ?? -1, b?.at ?? -1],
        doorbell,
        words: [a?.lo ?? 0, a?.hi ?? 0, b?.lo ?? 0, b?.hi ?? 0],
      });
    }
  };
  r.events.forEach((e, i) => {
    if (e.t === 'st' && e.size === 8) memory.set(e.gpa, { lo: e.lo, hi: e.hi, at: i });
    if (e.t !== 'w') return;
    regs.set(e.off, [e.lo, e.size === 8 ? e.hi : (regs.get(e.off + 4)?.[0] ?? 0)]);
    if (smmu && e.off === 0x90) {
      base = address(regs.get(0x90)!);
      entries = 2 ** (e.lo & 31);
      tail = 0;
    } else if (smmu && e.off === 0x98 && entries > 0) take(e.lo % entries, i);
    else if (!smmu && e.off === 0x90) {
      base = address(regs.get(0x90)!);
      bytes = (e.lo & 0x800) !== 0 ? 32 : 16;
      entries = 2 ** ((e.lo & 7) + 8) / (bytes / 16);
      tail = 0;
    } else if (!smmu && e.off === 0x88 && entries > 0) take((e.lo & 0x7_ffff) / bytes, i);
  });
  return out;
}

/** The events with a command given other words; nothing else is touched. */
export function rewritten(r: Recording, c: Submitted, words: readonly number[]): TraceEvent[] {
  const out = [...r.events];
  const before: TraceEvent[] = [];
  const after: TraceEvent[] = [];
  for (const [n, at] of c.stores.entries()) {
    const e = out[at];
    if (e?.t !== 'st') continue;
    const other = { ...e, lo: words[2 * n]!, hi: words[2 * n + 1]! };
    if (!r.seen) out[at] = other;
    before.push(other);
    after.push(e);
  }
  if (!r.seen) return out;
  // Where only what differs is told, a store stands for every command in the same place up to the next one.
  out.splice(c.doorbell + 1, 0, ...after);
  out.splice(c.doorbell, 0, ...before);
  return renumbered(out);
}

/** Numbers from 0 again. */
export function renumbered(events: readonly TraceEvent[]): TraceEvent[] {
  return events.map((e, i) => ({ ...e, i }));
}
