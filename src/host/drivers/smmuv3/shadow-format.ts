import { DESC_TYPE, levelShift } from '../../../spec/smmuv3/descriptors.ts';
import type { ShadowFormat } from '../shadow/format.ts';
import { leafAttributes, leafAttributesHigh, neverExecuted, type Smmuv3PageTableConfig } from './leaf.ts';

const GRANULE = 12;
/** Architectural levels count down to the leaves: 3 is 4 KiB, 1 the largest block. */
const LAST = 3;
const S2AP = 6;

/** A stage-2 table with the 4 KiB granule as a shadow writes it (VMSAv8-64, DDI 0487 D8.3). */
export function stageTwoFormat(config: Smmuv3PageTableConfig, startLevel: number): ShadowFormat {
  return {
    levels: LAST + 1 - startLevel,
    rootEntries: 2 ** (config.ias - levelShift(GRANULE, startLevel)),
    largest: Math.min(LAST, LAST + 1 - startLevel),
    present: 1,
    typeMask: 3,
    table: DESC_TYPE.TABLE,
    block: DESC_TYPE.BLOCK,
    page: DESC_TYPE.TABLE,
    pointer: DESC_TYPE.TABLE,
    permShift: S2AP,
    leaf: (prot) => leafAttributes(config, prot),
    leafHigh: (prot) => leafAttributesHigh(config, prot),
    never: neverExecuted,
  };
}
