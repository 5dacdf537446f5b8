/** How a kind of IOMMU spells the entries of its stage-2 tables with 4 KiB pages. Levels count from the leaves: 1 is 4 KiB. */
export interface ShadowFormat {
  /** Level of the start table. */
  readonly levels: number;
  /** Entries of the start table; a multiple of 512 where several tables are concatenated. */
  readonly rootEntries: number;
  /** Level of the largest leaf. */
  readonly largest: number;
  /** An entry says something if one of these bits of its low word is set. */
  readonly present: number;
  /** The bits of its low word that tell, above level 1, a table from a block; and what they are there. */
  readonly typeMask: number;
  readonly table: number;
  readonly block: number;
  /** The same bits of a leaf of level 1. */
  readonly page: number;
  /** All low bits of an entry that names a table. */
  readonly pointer: number;
  /** Where READ (1) and WRITE (2) stand in a leaf, as a shift. */
  readonly permShift: number;
  /** Low bits of a leaf, type left out. @param prot MAP_PROT bits. */
  leaf(prot: number): number;
  /** Bits of its high word. */
  leafHigh(prot: number): number;
  /** MAP_PROT NOEXEC_UNPRIV and NOEXEC_PRIV that the high word of a leaf says; null: leaves say nothing about execution. */
  readonly never: ((high: number) => number) | null;
}
