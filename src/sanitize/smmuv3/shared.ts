import type { Caches } from '../caches.ts';
import type { ConfigCaches } from '../config.ts';
import type { Course } from '../course.ts';
import type { TrackedMemory, TrackedPage } from '../memory.ts';
import type { Trees } from '../trees.ts';

/** A table of context descriptors as far as its changes are told. */
export interface CdTableUsers {
  readonly streams: ReadonlySet<number>;
  readonly spec: { readonly log2: number };
}

/** What the parts that follow an SMMUv3 share. */
export class Smmuv3Shared {
  readonly course: Course;
  readonly memory: TrackedMemory;
  readonly caches: Caches;
  readonly config: ConfigCaches;
  readonly trees: Trees;
  /** Bits of output addresses, IDR5.OAS. */
  oas = 48;

  constructor(course: Course, memory: TrackedMemory, caches: Caches, config: ConfigCaches, trees: Trees) {
    this.course = course;
    this.memory = memory;
    this.caches = caches;
    this.config = config;
    this.trees = trees;
  }

  /** A CD of a table some streams use was changed. */
  changedCd(table: CdTableUsers, ssid: number, wasValid: boolean, page: TrackedPage, release: () => void): void {
    const streams = [...table.streams];
    if (streams.length === 0 || page.late) {
      release();
      return;
    }
    let left = streams.length;
    const one = () => {
      if (--left === 0) release();
    };
    for (const stream of streams) {
      const name = `CD of stream 0x${stream.toString(16)}${table.spec.log2 === 0 ? '' : `, substream ${ssid}`}`;
      this.config.changed({ kind: 'CD', name, stream, pasid: ssid, did: -1, wasValid, release: one });
    }
  }

  changedL1Cd(table: CdTableUsers, ssid: number, wasValid: boolean): void {
    for (const stream of table.streams) {
      const name = `level-1 CD descriptor of stream 0x${stream.toString(16)}`;
      this.config.changed({ kind: 'level-1 CD', name, stream, pasid: ssid, did: -1, wasValid, release: () => {} });
    }
  }
}
