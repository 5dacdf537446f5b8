import type { HostAttachment, HostObject } from '../../explain/objects.ts';
import { leavesOf, type MappedRange, rangesOf, Words } from './paging.ts';
import type { TraceSession } from './session.ts';
import { type CachedView, type RegisterView, registerViews, stateOf, streamsOf } from './state.ts';
import { hex } from './streams.ts';

/** A register that reads otherwise. */
export interface RegisterChange {
  readonly name: string;
  readonly before: RegisterView;
  readonly after: RegisterView;
}

/** A range of input addresses that is mapped in one of two states only. */
export interface MappingChange {
  /** Stream, address space and table. */
  readonly where: string;
  readonly from: string;
  readonly bytes: string;
  readonly to: string;
  readonly rights: string;
}

/** Things that are there in one state only. */
export interface Only<T> {
  readonly gone: readonly T[];
  readonly come: readonly T[];
}

/** What differs between the machine before event `a` and before event `b`. */
export interface Changes {
  readonly a: number;
  readonly b: number;
  readonly registers: readonly RegisterChange[];
  readonly streams: Only<string>;
  readonly mappings: Only<MappingChange>;
  readonly objects: Only<HostObject>;
  readonly attachments: Only<HostAttachment>;
  readonly cached: Only<CachedView>;
}

/** Everything of one state that is compared. */
interface Snapshot {
  readonly registers: readonly RegisterView[];
  readonly streams: readonly string[];
  readonly mappings: readonly MappingChange[];
  readonly objects: readonly HostObject[];
  readonly attachments: readonly HostAttachment[];
  readonly cached: readonly CachedView[];
}

function mappingOf(where: string, r: MappedRange): MappingChange {
  return { where, from: hex(r.from), bytes: hex(r.bytes), to: hex(r.to), rights: r.rights };
}

function snapshot(session: TraceSession, event: number): Snapshot {
  const parked = session.machineAt(event);
  const words = new Words(parked.target);
  const streams = streamsOf(parked.target, session.header);
  const mappings = streams.flatMap((s) =>
    s.spaces.flatMap((space) =>
      space.tables.flatMap((t) =>
        rangesOf(leavesOf(words, t)).map((r) => mappingOf(`${hex(s.first)}, ${space.label}, ${t.what}`, r)),
      ),
    ),
  );
  const { objects, attachments, cached } = stateOf(parked, session.header, []);
  const named = streams.map((s) => `${hex(s.first)}${s.last > s.first ? ` to ${hex(s.last)}` : ''}: ${s.detail}`);
  return {
    registers: registerViews(parked.target, session.header),
    streams: named,
    mappings,
    objects,
    attachments,
    cached,
  };
}

function only<T>(before: readonly T[], after: readonly T[]): Only<T> {
  const key = (x: T) => JSON.stringify(x);
  const [was, is] = [new Set(before.map(key)), new Set(after.map(key))];
  return { gone: before.filter((x) => !is.has(key(x))), come: after.filter((x) => !was.has(key(x))) };
}

/** What changed from before event `a` to before event `b`. */
export function changesBetween(session: TraceSession, a: number, b: number): Changes {
  const [before, after] = [snapshot(session, a), snapshot(session, b)];
  const registers = before.registers.flatMap((r, n) => {
    const now = after.registers[n]!;
    return now.value === r.value ? [] : [{ name: r.name, before: r, after: now }];
  });
  return {
    a,
    b,
    registers,
    streams: only(before.streams, after.streams),
    mappings: only(before.mappings, after.mappings),
    objects: only(before.objects, after.objects),
    attachments: only(before.attachments, after.attachments),
    cached: only(before.cached, after.cached),
  };
}
