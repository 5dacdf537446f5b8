/** What became of an ENQCMD. */
export const ENQUEUE = {
  ACCEPTED: 0,
  /** The queue took nothing: the guest sees ZF and tries again. */
  RETRY: 1,
  /**
   * The processor has no translation for the PASID: the instruction leaves the guest, and the VMM decides. Where the guest's
   * tables have the PASID and the host has none to pair it with, the unit has recorded a fault for each function concerned.
   */
  UNTRANSLATED: 2,
} as const;

/** The shared work queues of a function. */
export interface EnqueueTarget {
  /** @param pasid as it goes out on the bus. @returns false: retry. */
  enqcmd(queue: number, words: Int32Array, pasid: number): boolean;
}

/**
 * The processor's PASID translation of one VM: ENQCMD of a guest reads its local PASID and puts the host's on the bus. It
 * follows the pairings the VM has now and holds no others.
 */
export class CpuPasidTable {
  /** Asked to pair a local PASID that has no twin: the instruction leaves the guest, and the VMM looks at its tables. */
  onMiss: ((local: number) => void) | null = null;
  readonly #host = new Map<number, number>();

  /** @param global -1: the local PASID stands for nothing any more. */
  set(local: number, global: number): void {
    if (global < 0) this.#host.delete(local);
    else this.#host.set(local, global);
  }

  /** The host PASID behind a guest's, or -1. */
  translate(local: number): number {
    return this.#host.get(local) ?? -1;
  }

  /** Every pairing, by local PASID. */
  get entries(): readonly (readonly [local: number, global: number])[] {
    return [...this.#host].sort(([a], [b]) => a - b);
  }

  /** A guest executes ENQCMD with `local` in its IA32_PASID. @returns an ENQUEUE value. */
  enqcmd(target: EnqueueTarget, queue: number, words: Int32Array, local: number): number {
    if (!this.#host.has(local)) this.onMiss?.(local);
    const host = this.translate(local);
    if (host < 0) return ENQUEUE.UNTRANSLATED;
    return target.enqcmd(queue, words, host) ? ENQUEUE.ACCEPTED : ENQUEUE.RETRY;
  }
}
