import { PATHS } from './case.ts';

/** The reference walk of the machine that the figures of the gates come from, ns. Times are scaled by the walk of this one. */
export const REFERENCE_WALK_NS = 14.6;

/** A row may cost at most so much, in the unit of the row: of itself, or as a multiple of another row of the same run. */
export interface Gate {
  readonly title: string;
  readonly atMost: number;
  /** The row it is a multiple of. */
  readonly of?: string;
  /** Where the figure comes from. */
  readonly because: string;
}

/** What a hot path may leave on the heap per operation, bytes: what the measurement itself takes, and nothing else. */
export const HOT_HEAP = 0.5;

const [GUEST, BUS, ATC, HARDWARE, , REPLAY, SCALE, START] = PATHS;

/** QEMU 11.1's time for the same in C, and the part of it that this may take. */
const qemu = (title: string, ns: number, part: number): Gate => ({
  title,
  atMost: ns * part,
  because: `${part}x of QEMU's ${ns} ns`,
});

const flat = (title: string, n: string, base: string): Gate => ({
  title: `${title}, ${n} cached`,
  atMost: 2,
  of: `${title}, ${base} cached`,
  because: 'cost does not grow with what is cached',
});

/** So many plain array walks of 4 levels, each of them `REFERENCE_WALK_NS`. */
const walks = (title: string, times: number, what: string): Gate => ({
  title,
  atMost: times * REFERENCE_WALK_NS,
  because: `${what}: ${times} plain array walks`,
});

const LEGACY = `${GUEST}: VT-d legacy: page, wait, used again`;
const NESTED = `${GUEST}: SMMUv3 nested: S2_IPA, NH_ASID, SYNC, used again`;
const DOORBELLS = `${GUEST}: SMMUv3 TLBI_NH_VA, SYNC, used again, a doorbell each`;

export const GATES: readonly Gate[] = [
  qemu(`${LEGACY}, 1 cached`, 434, 1),
  qemu(`${LEGACY}, 200 cached`, 1081, 0.5),
  flat(LEGACY, '60,000', '200'),
  qemu(`${GUEST}: VT-d legacy: first touch`, 476, 1),
  ...['10,000', '65,536'].flatMap((n) =>
    ['domain', 'global'].map((what) => ({
      title: `${GUEST}: VT-d legacy: ${what} flush, wait, 4 pages used again, ${n} cached`,
      atMost: 5000,
      because: 'a flush does not cost what it drops',
    })),
  ),
  flat(NESTED, '60,000', '200'),
  {
    title: `${GUEST}: SMMUv3 nested: S12_VMALL, SYNC, 4 pages used again`,
    atMost: 5000,
    because: 'a flush does not cost what it drops',
  },
  qemu(`${GUEST}: SMMUv3 CFGI_STE, 63 and a SYNC`, 72, 1),
  qemu(`${GUEST}: SMMUv3 SYNC`, 62, 0.5),
  qemu(`${GUEST}: VT-d wait`, 87, 0.5),
  qemu(`${DOORBELLS}, 200 cached`, 501, 0.6),
  qemu(`${GUEST}: SMMUv3 TLBI_NH_VA, 63 and a SYNC, 200 cached`, 808, 0.1),
  qemu(`${GUEST}: VT-d first stage: PASID-IOTLB page, 63 and a wait, 200 cached`, 733, 0.1),
  qemu(`${GUEST}: VT-d legacy: IOTLB page, 63 and a wait, 200 cached`, 717, 0.1),
  qemu(`${BUS}: SMMUv3 read of 8 bytes, IOTLB hit`, 176, 0.5),
  qemu(`${BUS}: VT-d legacy read of 8 bytes, IOTLB hit`, 95, 1),
  qemu(`${BUS}: VT-d first-stage read of 8 bytes, IOTLB hit`, 224, 0.25),
  qemu(`${HARDWARE}: SMMUv3 stage-1 miss`, 681, 0.3),
  qemu(`${HARDWARE}: VT-d first-stage miss`, 1046, 0.3),
  qemu(`${HARDWARE}: SMMUv3 nested miss, walk caches warm`, 1572, 0.2),
  qemu(`${HARDWARE}: SMMUv3 everything invalidated, then nested`, 2660, 0.5),
  ...['SMMUv3', 'SMMUv3 nested', 'VT-d legacy', 'VT-d first-stage', 'VT-d nested'].map((what) =>
    walks(`${HARDWARE}: ${what} IOTLB hit`, 5, 'a hit walks nothing'),
  ),
  ...['SMMUv3 nested miss, walk caches warm', 'SMMUv3 nested miss, no caches at all', 'VT-d nested miss'].map((what) =>
    walks(`${HARDWARE}: ${what}`, 60, '24 descriptors are read'),
  ),
  ...['1', '16', '1,024'].map((n) => walks(`${ATC}: a lookup, ${n} PASIDs`, 4, 'a hit asks nobody')),
  ...['SMMUv3', 'VT-d first-stage'].map((what) =>
    walks(`${ATC}: ${what} page forgotten, asked for, read`, 130, 'a request and its completion cross the bus'),
  ),
  walks(`${GUEST}: SMMUv3 TLBI_NH_VA with TG and TTL, 63 and a SYNC`, 16, 'a range of one page'),
  walks(`${ATC}: SMMUv3 ATC_INV, 63 and a SYNC`, 16, 'a forwarded command, and its function answers'),
  {
    title: `${ATC}: SMMUv3 TLBI_NH_VA and ATC_INV in turn, 63 and a SYNC`,
    atMost: 80,
    because: 'a forwarded command, and its function answers',
  },
  {
    title: `${ATC}: VT-d device-TLB page, 63 and a wait`,
    atMost: 80,
    because: 'a forwarded descriptor, and its function answers',
  },
  { title: `${GUEST}: SMMUv3 empty doorbell`, atMost: 35, because: 'QEMU dispatches an access in 25 ns' },
  { title: `${GUEST}: VT-d empty doorbell`, atMost: 35, because: 'QEMU dispatches an access in 25 ns' },
  { title: `${REPLAY}: an event of vtd-legacy-strict-heavy`, atMost: 1000, because: 'a million events in a second' },
  { title: `${SCALE}: an idle vSMMUv3 with its VM`, atMost: 64 * 1024, because: 'ten thousand of them fit in 4 GiB' },
  { title: `${SCALE}: an idle vVT-d with its VM`, atMost: 96 * 1024, because: 'ten thousand of them fit in 4 GiB' },
  {
    title: `${SCALE}: a vSMMUv3 with 8 functions is built`,
    atMost: 6_000_000,
    because: 'ten thousand in a minute',
  },
  { title: `${SCALE}: a vVT-d with 8 functions is built`, atMost: 6_000_000, because: 'ten thousand in a minute' },
  ...['SMMUv3 TLBI_NH_VA, SYNC, used again, guests in turn', 'VT-d legacy: page, wait, used again, guests in turn'].map(
    (name) => ({
      title: `${SCALE}: ${name}, 32 vIOMMUs`,
      atMost: 3,
      of: `${SCALE}: ${name}, 1 vIOMMUs`,
      because: 'guests in turn cost little more than one alone',
    }),
  ),
  { title: `${START}: viommu help, over a bare node`, atMost: 1.3, because: 'it prints a few lines' },
  { title: `${START}: import 'viommu/machine'`, atMost: 80, because: 'it took 220 ms' },
];
