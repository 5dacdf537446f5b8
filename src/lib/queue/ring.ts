/**
 * Index arithmetic of the SMMUv3 queues (IHI 0070 §3.5.1): an index register holds the slot in its low `log2` bits and a
 * wrap flag above them. Everything beyond the wrap flag is foreign to the comparison. `log2` is at most 29; shifts, because a
 * power of a variable costs more than a whole command.
 */
export const ringMask = (log2: number) => (2 << log2) - 1;

/** Slot number of an index register. */
export const ringSlot = (index: number, log2: number) => index & ((1 << log2) - 1);

/** Both pointers at the same slot on the same lap. */
export const ringEmpty = (prod: number, cons: number, log2: number) => ((prod ^ cons) & ringMask(log2)) === 0;

/** Same slot, different lap. */
export const ringFull = (prod: number, cons: number, log2: number) => ((prod ^ cons) & ringMask(log2)) === 1 << log2;

/** The index one entry further, wrap flag included; higher bits are dropped. */
export const ringNext = (index: number, log2: number) => (index + 1) & ringMask(log2);

/** Entries from `cons` to `prod`, 0..2^log2; more means software broke the rules (then at most 2^(log2+1) - 1). */
export const ringUsed = (prod: number, cons: number, log2: number) => (prod - cons) & ringMask(log2);
