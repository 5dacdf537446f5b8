import type { Paging } from './paging.ts';

/** An address space of a stream: a context descriptor, a PASID's entry, or the stream's own. */
export interface StreamSpace {
  /** `context`, `PASID 0x1`, … */
  readonly label: string;
  readonly detail: string;
  /** PASID or SubstreamID of the accesses that use it; -1: those without one. */
  readonly pasid: number;
  /** Where its entry lies in guest memory (bytes); -1: it has none of its own. */
  readonly at: number;
  readonly tables: readonly Paging[];
}

/** A stream, or a run of streams nobody has a name for that are configured alike without tables. */
export interface StreamEntry {
  readonly first: number;
  readonly last: number;
  readonly name: string;
  readonly detail: string;
  /** Where the entry of the first lies in guest memory (bytes). */
  readonly at: number;
  readonly spaces: readonly StreamSpace[];
}

export function hex(v: number | bigint): string {
  return `0x${v.toString(16)}`;
}
