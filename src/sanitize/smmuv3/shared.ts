import { cdValid } from '../../spec/smmuv3/cd.ts';
import type { Caches } from '../caches.ts';
import type { ConfigCaches, OnForgotten } from '../config.ts';
import type { Course } from '../course.ts';
import type { DeviceTlbs } from '../device-tlbs.ts';
import type { TrackedMemory, TrackedPage } from '../memory.ts';
import type { WatchParts } from '../parts.ts';
import type { PageRequestRules } from '../requests.ts';
import { EntryTrails } from '../trails.ts';
import type { Trees } from '../trees.ts';
import { L1_CD } from './commands.ts';
import { cdUsed } from './entries.ts';

/** A table of context descriptors as far as its changes are told. */
export interface CdTableUsers {
  readonly streams: ReadonlySet<number>;
  readonly spec: { readonly log2: number };
}

/** What the parts that follow an SMMUv3 share. */
export class Smmuv3Shared implements WatchParts {
  readonly course: Course;
  readonly memory: TrackedMemory;
  readonly caches: Caches;
  readonly config: ConfigCaches;
  readonly trees: Trees;
  readonly devices: DeviceTlbs;
  readonly requests: PageRequestRules;
  readonly trails: EntryTrails;
  /** ATS is not allowed any more for a stream. */
  forbidden: (stream: number) => void = () => {};
  /** Bits of output addresses, IDR5.OAS. */
  oas = 48;

  constructor(parts: WatchParts) {
    this.course = parts.course;
    this.memory = parts.memory;
    this.caches = parts.caches;
    this.config = parts.config;
    this.trees = parts.trees;
    this.devices = parts.devices;
    this.requests = parts.requests;
    this.trails = new EntryTrails(parts.course);
  }

  /** A CD of a table some streams use was written. @param release when nothing holds what it said. */
  writtenCd(
    table: CdTableUsers,
    ssid: number,
    page: TrackedPage,
    old: Int32Array,
    trail: readonly Int32Array[],
    release: OnForgotten,
  ): void {
    const one = whenAll(table.streams.size, release);
    for (const stream of table.streams) {
      const name = `CD of stream 0x${stream.toString(16)}${table.spec.log2 === 0 ? '' : `, substream ${ssid}`}`;
      const entry = { key: `cd${stream}/${ssid}`, kind: 'CD', name, stream, pasid: ssid, did: -1 };
      this.config.write(
        { ...entry, page, old, now: trail.at(-1)!, trail, used: cdUsed, valid: cdIsValid, cachesInvalid: true },
        one,
      );
    }
  }

  /** A descriptor of a second-level table was written. @param release when nothing holds what it said. */
  changedL1Cd(page: TrackedPage, table: CdTableUsers, ssid: number, release: OnForgotten): void {
    const once = whenAll(table.streams.size, release);
    for (const stream of table.streams) {
      const name = `level-1 CD descriptor of stream 0x${stream.toString(16)}`;
      this.config.changed(page, { kind: L1_CD, name, stream, pasid: -1, did: ssid }, once);
    }
  }
}

function cdIsValid(words: Int32Array): boolean {
  return cdValid(words, 0);
}

/** To be called for each of `count` streams: the last one releases. */
function whenAll(count: number, release: OnForgotten): OnForgotten {
  let left = count;
  if (left === 0) release();
  return (seq) => {
    if (--left === 0) release(seq);
  };
}
