import type { Caches } from './caches.ts';
import type { ConfigCaches } from './config.ts';
import type { Course } from './course.ts';
import type { DeviceTlbs } from './device-tlbs.ts';
import type { TrackedMemory } from './memory.ts';
import type { PageRequestRules } from './requests.ts';
import type { Trees } from './trees.ts';

/** What every part that follows an IOMMU works on. */
export interface WatchParts {
  readonly course: Course;
  readonly memory: TrackedMemory;
  readonly caches: Caches;
  readonly config: ConfigCaches;
  readonly trees: Trees;
  readonly devices: DeviceTlbs;
  readonly requests: PageRequestRules;
}
