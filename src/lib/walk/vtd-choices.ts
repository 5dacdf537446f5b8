/**
 * Points of a first-stage walk on which units differ in what they leave in memory. Neither changes which accesses translate;
 * hardware and a device model of one machine are given the same choices, since hardware alone writes the flags.
 */
export interface VtdWalkChoices {
  /**
   * An entry that forbids the access ends the walk before its accessed flag is set; else the permissions of the whole path
   * are judged at the leaf, and the entries on the way have been marked (VT-d §3.6.1).
   */
  readonly permissionAtEachLevel: boolean;
  /** A write sets A and D of a leaf only if both are clear; else each that is clear (VT-d §3.6.2). */
  readonly leafFlagsTogether: boolean;
}

/** What the architecture says. */
export const VTD_WALK_ARCHITECTURE: VtdWalkChoices = { permissionAtEachLevel: false, leafFlagsTogether: false };
