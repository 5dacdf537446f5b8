import type { Memory } from '../../ports/memory.ts';

/** An address no machine has memory at. */
export const NOWHERE = 0xf_fff0_0000_0000;

/**
 * Copies a structure of a guest's or the host's tables; 64-bit words are single-copy atomic. Allocates nothing.
 * @param at bytes, a multiple of 8. @param count 32-bit words, even. @returns false: external abort.
 */
export function fetchWords(memory: Memory, at: number, into: Int32Array, count: number): boolean {
  if (memory.locate(at) && memory.room >= count) {
    const { words, index } = memory;
    for (let i = 0; i < count; i++) into[i] = words[index + i]!;
    return true;
  }
  for (let i = 0; i < count; i += 2) {
    if (!memory.load64(at + 4 * i)) return false;
    into[i] = memory.lo;
    into[i + 1] = memory.hi;
  }
  return true;
}
