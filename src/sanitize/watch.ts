import type { SeenEvent } from './events.ts';

/** Follows one IOMMU of either kind through the events. */
export interface IommuWatch {
  event(e: SeenEvent): void;
  finish(): void;
}
