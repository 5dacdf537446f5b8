import type { Memory } from '../../../src/ports/memory.ts';

/** What a table walk found, in the slowest and most obvious way. */
export interface Walked {
  readonly out: bigint;
  readonly shift: number;
  readonly read: boolean;
  readonly write: boolean;
  readonly descriptor: bigint;
}

function load(memory: Memory, address: bigint): bigint {
  if (!memory.load64(Number(address))) throw new Error(`table outside memory at 0x${address.toString(16)}`);
  return (BigInt(memory.hi >>> 0) << 32n) | BigInt(memory.lo >>> 0);
}

/**
 * Walks 4 KiB-granule VMSAv8-64 tables with bigints only.
 * @param inputBits 64 - T0SZ. @param startLevel level of the table(s) at `root`.
 */
export function walk(
  memory: Memory,
  stage: 1 | 2,
  root: bigint,
  inputBits: number,
  startLevel: number,
  input: bigint,
): Walked | null {
  if (input >> BigInt(inputBits) !== 0n) return null;
  let table = root;
  for (let level = startLevel; level <= 3; level++) {
    const shift = BigInt(12 + 9 * (3 - level));
    const index = level === startLevel ? input >> shift : (input >> shift) & 511n;
    const d = load(memory, table + 8n * index);
    if ((d & 1n) === 0n) return null;
    const address = d & 0x0000_ffff_ffff_f000n;
    const isTable = (d & 2n) !== 0n;
    if (level < 3 && isTable) {
      table = address;
      continue;
    }
    if (level === 3 && !isTable) return null;
    if (level === 0) throw new Error('a block at level 0');
    if ((d & (1n << 10n)) === 0n) throw new Error('the access flag is clear');
    const size = 1n << shift;
    if ((address & (size - 1n)) !== 0n) throw new Error('a block that is not aligned to its size');
    return {
      out: address | (input & (size - 1n)),
      shift: Number(shift),
      read: stage === 2 ? (d & 0x40n) !== 0n : true,
      write: stage === 2 ? (d & 0x80n) !== 0n : (d & 0x80n) === 0n || (d & (1n << 51n)) !== 0n,
      descriptor: d,
    };
  }
  return null;
}
