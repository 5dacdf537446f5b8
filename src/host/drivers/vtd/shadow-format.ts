import { SS } from '../../../spec/vtd/paging.ts';
import { MAP_PROT } from '../../kernel/driver.ts';
import type { ShadowFormat } from '../shadow/format.ts';
import type { VtdPageTable } from './page-table.ts';

/** Low bits of a second-stage leaf, without its type. @param prot MAP_PROT bits. @param coherent its accesses snoop. */
export function secondStageLeaf(prot: number, coherent: boolean): number {
  const read = (prot & MAP_PROT.READ) !== 0 ? SS.R : 0;
  return read | ((prot & MAP_PROT.WRITE) !== 0 ? SS.W : 0) | (coherent ? SS.SNP : 0);
}

/** A second-stage table as a shadow writes it (VT-d §9.8). */
export function secondStageFormat({ levels, largest }: VtdPageTable['config'], coherent: () => boolean): ShadowFormat {
  return {
    levels,
    rootEntries: 512,
    largest,
    present: SS.R | SS.W,
    typeMask: SS.PS,
    table: 0,
    block: SS.PS,
    page: 0,
    pointer: SS.R | SS.W,
    permShift: 0,
    leaf: (prot) => secondStageLeaf(prot, coherent()),
    leafHigh: () => 0,
    never: null,
  };
}
