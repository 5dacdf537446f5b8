import { ACCESS } from '../../../src/ports/dma.ts';
import { PAGE0, PAGE1, PAGE1_BASE } from '../../../src/spec/smmuv3/index.ts';
import { PAGE } from '../../../src/spec/vtd/index.ts';
import type { IommuKind, ReplayTarget, TraceHeader } from '../../../src/trace/index.ts';
import { Guest, registersOf } from '../../explain/guest.ts';
import type { HostAttachment, HostObject } from '../../explain/objects.ts';
import { Words } from './paging.ts';
import type { Parked } from './parked.ts';
import { hex, type StreamEntry } from './streams.ts';
import { smmuv3Streams } from './streams-smmuv3.ts';
import { vtdStreams } from './streams-vtd.ts';
import { TableTree, type TreeNode } from './tree.ts';

/** A register as it is shown. */
export interface RegisterView {
  readonly name: string;
  readonly at: number;
  /** `0x…` */
  readonly value: string;
  readonly fields: readonly { readonly name: string; readonly value: number }[];
}

/** A cached translation as it is shown. */
export interface CachedView {
  /** Whose it is: VMID and ASID, or domain and PASID, as the hardware knows them. */
  readonly context: string;
  readonly input: string;
  readonly shift: number;
  readonly out: string;
  readonly rights: string;
}

/** A translation a function may hold, as it is shown. */
export interface GrantedView {
  readonly stream: number;
  readonly input: string;
  readonly out: string;
  readonly rights: string;
}

/** Everything there is on a machine before one event. */
export interface StateView {
  /** Number of the event. */
  readonly event: number;
  readonly registers: readonly RegisterView[];
  /** The stream or root table, opened where it was asked for. */
  readonly streams: readonly TreeNode[];
  readonly objects: readonly HostObject[];
  readonly devices: readonly string[];
  readonly attachments: readonly HostAttachment[];
  readonly operations: readonly (readonly [verb: string, count: number])[];
  readonly cached: readonly CachedView[];
  /** How many translations are cached; `cached` has the first of them. */
  readonly cachedCount: number;
  /** Translations that functions with ATS were given and have not been told to forget: what their ATCs may hold. */
  readonly granted: readonly GrantedView[];
  /** How many there are; `granted` has the last of them. */
  readonly grantedCount: number;
}

/** Cached translations that are shown. */
const MOST_CACHED = 2000;
/** VT-d's fixed registers end before those whose place the capability registers say. */
const VTD_FIXED = 0x230;

const CONTEXT = { smmuv3: ['VMID', 'ASID'], vtd: ['domain', 'PASID'] } as const;

/** The valid entries of a machine's stream or root table. */
export function streamsOf(target: ReplayTarget, header: TraceHeader): StreamEntry[] {
  return (header.iommu === 'smmuv3' ? smmuv3Streams : vtdStreams)(new Words(target), header);
}

/** All registers of the IOMMU as they read now. */
export function registerViews(target: ReplayTarget, header: TraceHeader): RegisterView[] {
  const guest = new Guest(target);
  const { size } = header.mmio;
  const all =
    header.iommu === 'smmuv3'
      ? [...registersOf(guest, PAGE0, 0, size), ...registersOf(guest, PAGE1, PAGE1_BASE, size)]
      : registersOf(guest, PAGE, 0, Math.min(size, VTD_FIXED));
  return all.map((r) => ({ ...r, value: hex(r.value) }));
}

function cachedViews(target: ReplayTarget, kind: IommuKind): readonly [CachedView[], number] {
  const all = target.translations?.() ?? [];
  const [domain, id] = CONTEXT[kind];
  const shown = all.slice(0, MOST_CACHED).map((c) => ({
    context: `${domain} ${c.domain}${c.id < 0 ? '' : `, ${id} ${c.id}`}`,
    input: hex(c.input),
    shift: c.shift,
    out: hex(c.out),
    rights: rightsOf(c.perm),
  }));
  return [shown, all.length];
}

function rightsOf(perm: number): string {
  return (perm & ACCESS.READ ? 'r' : '') + (perm & ACCESS.WRITE ? 'w' : '');
}

function grantedViews(target: ReplayTarget): readonly [GrantedView[], number] {
  const all = target.granted?.() ?? [];
  const shown = all.slice(-MOST_CACHED).map((g) => ({
    stream: g.rid,
    input: hex(g.input),
    out: hex(g.out),
    rights: rightsOf(g.perm),
  }));
  return [shown, all.length];
}

/** What there is on a machine where it stands. @param opened ids of nodes of the tree of tables whose children are wanted. */
export function stateOf(parked: Parked, header: TraceHeader, opened: readonly string[]): StateView {
  const { target, objects } = parked;
  const [cached, cachedCount] = cachedViews(target, header.iommu);
  const [granted, grantedCount] = grantedViews(target);
  return {
    event: parked.position,
    registers: registerViews(target, header),
    streams: new TableTree(new Words(target), new Set(opened)).streams(streamsOf(target, header)),
    objects: objects.objects(),
    devices: objects.devices(),
    attachments: objects.attachments(),
    operations: objects.counts(),
    cached,
    cachedCount,
    granted,
    grantedCount,
  };
}
