import type { VtdWalkChoices } from '../../../src/lib/walk/vtd-choices.ts';
import type { VtdDeviations } from '../profile.ts';

/** What first-stage walks of the profile leave in memory; the machine gives its hardware the same. */
export function vtdWalkChoicesOf(d: VtdDeviations): VtdWalkChoices {
  return { permissionAtEachLevel: d.permissionFirst, leafFlagsTogether: d.leafFlagsTogether };
}
