/**
 * Points of a VMSAv8-64 walk on which implementations differ, each by itself. The architecture leaves the first one open;
 * the others describe implementations that check less than it asks for. Each changes which accesses translate, or how
 * large a cached translation is, so hardware and a device model of one machine are given the same choices.
 */
export interface VmsaChoices {
  /** The contiguous hint of a descriptor makes a larger translation where it is consistent (a hint, DDI 0487 D8.7.1). */
  readonly contiguousHint: boolean;
  /** Stage 1 tells privileged from unprivileged accesses and fetches from data; else AP[2] alone decides (DDI 0487 D8.4). */
  readonly privileges: boolean;
  /** The address of a next-level table is held against the output size; else the table is fetched (DDI 0487 D8.2). */
  readonly tableAddressSize: boolean;
  /** Blocks exist at the levels the granule has them; else at every level above the last (DDI 0487 D8.3). */
  readonly blockLevels: boolean;
  /** CD.TBI0 and CD.TBI1 count for their own halves; else TBI0 counts for both (IHI 0070 §5.4). */
  readonly topByteByHalf: boolean;
  /** Outputs of stage 1 have at most this many bits, where a VM has a smaller OAS than its host; 52: OAS alone counts. */
  readonly outputLimit: number;
}

/** What the architecture says. */
export const VMSA_ARCHITECTURE: VmsaChoices = {
  contiguousHint: true,
  privileges: true,
  tableAddressSize: true,
  blockLevels: true,
  topByteByHalf: true,
  outputLimit: 52,
};

/**
 * Which fault is reported when an access has several. It never changes whether the access translates, so only a device
 * model that has to name another fault than the architecture sets it.
 */
export interface VmsaCheckOrder {
  /** A table whose APTable forbids the access faults there; else the leaf decides, after everything on the way to it. */
  readonly permissionAtTable: boolean;
  /** A leaf's access flag and permissions are judged before its output size; else after it (IHI 0070 §7.3.22). */
  readonly leafSizeLast: boolean;
}

/** The architecture's order. */
export const VMSA_ORDER: VmsaCheckOrder = { permissionAtTable: false, leafSizeLast: false };
