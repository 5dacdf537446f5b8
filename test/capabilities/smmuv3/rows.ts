import { PERMISSIONS } from './permissions.ts';
import { REQUESTS } from './requests.ts';
import { type Smmuv3Row, STAGES } from './stages.ts';
import { STREAMS } from './streams.ts';

/** Every capability of a vSMMUv3. */
export const SMMUV3_ROWS: readonly Smmuv3Row[] = [...STAGES, ...PERMISSIONS, ...STREAMS, ...REQUESTS];
