import { QUEUE } from './queue.ts';
import { REQUESTS } from './requests.ts';
import { STAGES, type VtdRow } from './stages.ts';

/** Every capability of a vVT-d. */
export const VTD_ROWS: readonly VtdRow[] = [...STAGES, ...QUEUE, ...REQUESTS];
