import type { SteRules } from '../../../src/lib/check/ste.ts';
import type { VmsaCheckOrder, VmsaChoices } from '../../../src/lib/walk/vmsa-choices.ts';
import type { Smmuv3Deviations } from '../profile.ts';

/** How walks of the profile choose; the machine gives its hardware the same, since they decide what translates. */
export function vmsaChoicesOf(d: Smmuv3Deviations): VmsaChoices {
  return {
    contiguousHint: !d.noContiguous,
    privileges: !d.anyPrivilege,
    tableAddressSize: !d.anyTableAddress,
    blockLevels: !d.anyBlock,
    topByteByHalf: !d.tbi0ForBoth,
  };
}

/** Which of several faults the profile reports. The hardware keeps the architecture's order and is not told. */
export function vmsaCheckOrderOf(d: Smmuv3Deviations): VmsaCheckOrder {
  return { permissionAtTable: d.tablePermission, leafSizeLast: d.sizeLast };
}

/** How the profile judges stream table entries of the guest. */
export function steRulesOf(d: Smmuv3Deviations): SteRules {
  return {
    substreamsRefused: d.cdMaxWithoutSsid,
    inputWithinS2ps: d.inputByS2ps,
    streamWorldIgnored: d.anyStreamWorld,
    contextPointerUnjudged: d.anyContextPointer,
    emptyStartLevel: d.shallowStart,
  };
}
