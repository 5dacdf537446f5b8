import { ViommuError } from '../../core/errors.ts';
import { acpiTable, type Maker, TableBytes, VIOMMU_MAKER } from './table.ts';

/** One SMMUv3 node (IORT, Arm DEN 0049, §3.1.1.2). */
export interface IortSmmuv3 {
  /** Guest-physical address of page 0. */
  readonly base: number;
  /** Interrupt numbers (GSIV) of the four wired lines. */
  readonly gsiv: { readonly event: number; readonly pri: number; readonly gerror: number; readonly sync: number };
  readonly cohacc?: boolean;
  /** The node's identifier; its position by default (QEMU writes 0 for the SMMU of `-M virt,iommu=smmuv3`). */
  readonly identifier?: number;
}

/** Requester ids [first, first + count) of the root complex and where they go. */
export interface IortIdMap {
  readonly first: number;
  readonly count: number;
  /** Index into `smmus`, or 'its' for ids that bypass every SMMU. */
  readonly to: number | 'its';
}

/** A reserved memory range node (§3.1.1.8): memory that `ids` must see identity-mapped (an MSI doorbell under nesting). */
export interface IortRmr {
  readonly smmu: number;
  readonly first: number;
  readonly count: number;
  readonly ranges: readonly { readonly base: number; readonly bytes: number }[];
  /** Remapping permitted / access privileged / attributes, as the Flags field has them. */
  readonly flags?: number;
}

export interface IortConfig {
  /** GICv3 ITS present. Without one, ids have no MSI output. */
  readonly its: boolean;
  readonly smmus: readonly IortSmmuv3[];
  /** In the order they appear in the table; see `rootComplexMap` for the usual one. */
  readonly map: readonly IortIdMap[];
  /** The root complex's ATS attribute: 1 = supported. */
  readonly ats?: boolean;
  readonly segment?: number;
  readonly rmrs?: readonly IortRmr[];
  readonly maker?: Maker;
}

const HEAD = 36 + 12;
const IORT = { revision: 5, ITS: 0, ROOT_COMPLEX: 2, SMMUV3: 4, RMR: 6 } as const;
const MAP_BYTES = 20;

/**
 * The id map of a root complex whose buses [first, first+count) each sit behind an SMMU or bypass it: first the ranges with
 * an SMMU, then the gaps up to 0xffff, which reach the ITS directly.
 */
export function rootComplexMap(its: boolean, behind: readonly IortIdMap[]): IortIdMap[] {
  const ranges = behind.filter((r) => r.to !== 'its').sort((a, b) => a.first - b.first);
  if (!its) return ranges;
  const gaps: IortIdMap[] = [];
  let next = 0;
  for (const r of ranges) {
    if (r.first > next) gaps.push({ first: next, count: r.first - next, to: 'its' });
    next = r.first + r.count;
  }
  if (next < 0x1_0000) gaps.push({ first: next, count: 0x1_0000 - next, to: 'its' });
  return [...ranges, ...gaps];
}

/**
 * The I/O Remapping Table of a machine with SMMUv3s.
 * @throws ViommuError `EINVAL` for a mapping to an SMMU or ITS that is not there; `ERANGE` for numbers that do not fit.
 */
export function iort(config: IortConfig): Uint8Array {
  const nodes: Uint8Array[] = [];
  let at = HEAD;
  let identifier = 0;
  const add = (
    type: number,
    revision: number,
    body: (b: TableBytes) => void,
    maps: MapEntry[],
    bodyBytes: number,
    id?: number,
  ) => {
    const length = 16 + bodyBytes + maps.length * MAP_BYTES;
    const b = new TableBytes()
      .u8(type)
      .u16(length)
      .u8(revision)
      .u32(id ?? identifier);
    identifier++;
    b.u32(maps.length).u32(maps.length === 0 ? 0 : 16 + bodyBytes);
    body(b);
    for (const m of maps)
      b.u32(m.first)
        .u32(m.count - 1)
        .u32(m.output)
        .u32(m.reference)
        .u32(m.flags);
    nodes.push(b.done());
    at += length;
    return at - length;
  };
  const itsAt = config.its ? add(IORT.ITS, 1, (b) => b.u32(1).u32(0), [], 8) : -1;
  const smmuAt = config.smmus.map((s) =>
    add(
      IORT.SMMUV3,
      4,
      (b) => {
        b.u64(s.base)
          .u32(s.cohacc === false ? 0 : 1)
          .u32(0)
          .u64(0)
          .u32(0);
        b.u32(s.gsiv.event).u32(s.gsiv.pri).u32(s.gsiv.gerror).u32(s.gsiv.sync).u32(0).u32(0);
      },
      config.its ? [{ first: 0, count: 0x1_0000, output: 0, reference: itsAt, flags: 0 }] : [],
      52,
      s.identifier,
    ),
  );
  const place = (to: number | 'its', first: number): number => {
    const reference = to === 'its' ? itsAt : smmuAt[to];
    if (reference === undefined || reference < 0) {
      throw new ViommuError(
        'EINVAL',
        'caller',
        `requester ids are mapped to ${to === 'its' ? 'an ITS' : `SMMU ${to}`} that this machine does not have`,
        { first },
      );
    }
    return reference;
  };
  add(
    IORT.ROOT_COMPLEX,
    3,
    (b) =>
      b
        .u32(1)
        .u8(0)
        .u16(0)
        .u8(3)
        .u32(config.ats ? 1 : 0)
        .u32(config.segment ?? 0)
        .u8(0x40)
        .u16(0)
        .u8(0),
    config.map.map((m) => ({
      first: m.first,
      count: m.count,
      output: m.first,
      reference: place(m.to, m.first),
      flags: 0,
    })),
    20,
  );
  for (const r of config.rmrs ?? []) rmrNode(r, add, place(r.smmu, r.first));
  const body = new TableBytes().u32(nodes.length).u32(HEAD).u32(0);
  for (const n of nodes) body.append(n);
  return acpiTable('IORT', IORT.revision, body.done(), config.maker ?? VIOMMU_MAKER);
}

interface MapEntry {
  readonly first: number;
  readonly count: number;
  readonly output: number;
  readonly reference: number;
  readonly flags: number;
}

type Add = (
  type: number,
  revision: number,
  body: (b: TableBytes) => void,
  maps: MapEntry[],
  bodyBytes: number,
) => number;

function rmrNode(r: IortRmr, add: Add, reference: number): void {
  const head = 12;
  add(
    IORT.RMR,
    3,
    (b) => {
      b.u32(r.flags ?? 0)
        .u32(r.ranges.length)
        .u32(16 + head);
      for (const range of r.ranges) b.u64(range.base).u64(range.bytes).u32(0);
    },
    [{ first: r.first, count: r.count, output: r.first, reference, flags: 0 }],
    head + r.ranges.length * 20,
  );
}
