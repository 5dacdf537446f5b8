import { PGTT } from '../../spec/vtd/tables.ts';

/**
 * What one (requester, PASID) translates with: a legacy context entry or a PASID entry, decoded once. Plain mutable fields,
 * so that lookups reuse an object instead of making one.
 */
export class VtdRegime {
  /** PGTT value; legacy mode knows SECOND and PASS_THROUGH. */
  pgtt: number = PGTT.SECOND;
  /** Which fault codes the walk reports (VT-d §7.1.3). */
  scalable = true;
  /** First-stage table, bytes: guest-physical when nested. */
  firstRoot = 0;
  /** 4 or 5. */
  firstLevels = 4;
  /** A write by a privileged request respects read-only pages. */
  wpe = false;
  /** Hardware writes the extended accessed flag. */
  eafe = false;
  /** Second-stage table, bytes. */
  secondRoot = 0;
  /** 3, 4 or 5. */
  secondLevels = 4;
  /** Second-stage accessed and dirty flags are written. */
  ssade = false;
}
