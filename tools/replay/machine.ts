import { ViommuError } from '../../src/core/errors.ts';
import type { MakeReplayTarget } from '../../src/trace/index.ts';

/** The machine recordings are replayed on. */
export const makeMachine: MakeReplayTarget = (header) => {
  throw new ViommuError('E_MISSING', 'host', `no machine for ${header.iommu} yet`);
};
