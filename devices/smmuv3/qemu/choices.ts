import type { Smmuv3Features } from '../../../src/lib/check/smmuv3-features.ts';
import type { SteRules } from '../../../src/lib/check/ste.ts';
import { VMSA_ARCHITECTURE, type VmsaCheckOrder, type VmsaChoices } from '../../../src/lib/walk/vmsa-choices.ts';
import { readStage2, type Stage2Regime } from '../../../src/lib/walk/vmsa-regime.ts';
import type { Smmuv3Deviations } from '../profile.ts';

/** How walks of the profile choose; the machine gives its hardware the same, since they decide what translates. */
export function vmsaChoicesOf(d: Smmuv3Deviations): VmsaChoices {
  return {
    contiguousHint: !d.noContiguous,
    privileges: !d.anyPrivilege,
    tableAddressSize: !d.anyTableAddress,
    blockLevels: !d.anyBlock,
    topByteByHalf: !d.tbi0ForBoth,
    outputLimit: VMSA_ARCHITECTURE.outputLimit,
  };
}

/** Which of several faults the profile reports. The hardware keeps the architecture's order and is not told. */
export function vmsaCheckOrderOf(d: Smmuv3Deviations): VmsaCheckOrder {
  return { permissionAtTable: d.tablePermission, leafSizeLast: d.sizeLast };
}

/** How the profile judges stream table entries of the guest. */
export function steRulesOf(f: Smmuv3Features, d: Smmuv3Deviations): SteRules {
  return {
    substreamsRefused: d.cdMaxWithoutSsid && f.ssidSize === 0,
    inputWithinS2ps: d.inputByS2ps,
    streamWorldIgnored: d.anyStreamWorld,
    contextPointerUnjudged: d.anyContextPointer,
    emptyStartLevel: d.shallowStart,
  };
}

/** What an STE says to a walk of the guest's own stage 2, as the profile walks it. */
export function readGuestStage2(into: Stage2Regime, ste: Int32Array, f: Smmuv3Features, d: Smmuv3Deviations): void {
  readStage2(into, ste, 0, f.oas, f.xnx);
  into.firstTableOnly = d.firstTableOnly;
  if (d.shallowStart && into.inBits < (into.granule - 3) * (4 - into.startLevel)) {
    // QEMU's mask for the table's alignment then covers every bit: it reads from address 0.
    into.ttbLo = 0;
    into.ttbHi = 0;
  }
}
