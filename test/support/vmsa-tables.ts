import type { AddressSpace } from '../../src/lib/memory/address-space.ts';

/** Attributes most tests want: unprivileged read-write, accessed, not global. */
export const S1_RW = 0xc40n;
/** Stage 2: read-write, accessed, normal memory. */
export const S2_RW = 0x4fcn;

/**
 * Writes VMSAv8-64 tables the way a driver does: one entry at a time, tables on demand. Knows nothing of the walkers.
 */
export class TableWriter {
  readonly memory: AddressSpace;
  readonly granule: number;
  readonly inBits: number;
  readonly startLevel: number;
  readonly base: number;
  readonly #next: () => number;
  readonly #place: (address: number) => number;

  /**
   * @param next gives zeroed tables of one granule (addresses as descriptors hold them).
   * @param place where such an address lies in `memory` (stage 1 under stage 2: IPA to PA).
   */
  constructor(
    memory: AddressSpace,
    granule: number,
    inBits: number,
    startLevel: number,
    base: number,
    next: () => number,
    place: (address: number) => number = (a) => a,
  ) {
    this.memory = memory;
    this.granule = granule;
    this.inBits = inBits;
    this.startLevel = startLevel;
    this.base = base;
    this.#next = next;
    this.#place = place;
  }

  shift(level: number): bigint {
    return BigInt(this.granule + (this.granule - 3) * (3 - level));
  }

  read(address: number): bigint {
    if (!this.memory.load64(address)) throw new Error(`no memory at ${address.toString(16)}`);
    return (BigInt(this.memory.hi >>> 0) << 32n) | BigInt(this.memory.lo >>> 0);
  }

  write(address: number, value: bigint): void {
    const ok = this.memory.store64(
      address,
      Number(value & 0xffff_ffffn) | 0,
      Number((value >> 32n) & 0xffff_ffffn) | 0,
    );
    if (!ok) throw new Error(`no memory at ${address.toString(16)}`);
  }

  /** Where the descriptor for `va` at `level` lies in memory; makes the tables above it, with `tableBits` set in them. */
  slot(va: bigint, level: number, tableBits = 0n): number {
    let table = this.base;
    let mask = (1n << (BigInt(this.inBits) - this.shift(this.startLevel))) - 1n;
    for (let l = this.startLevel; ; l++) {
      const at = this.#place(table + Number((va >> this.shift(l)) & mask) * 8);
      if (l === level) return at;
      const there = this.read(at);
      if ((there & 1n) === 0n) {
        table = this.#next();
        this.write(at, descriptorAddress(table, this.granule) | 3n | tableBits);
      } else {
        table = tableAddress(there, this.granule);
      }
      mask = (1n << BigInt(this.granule - 3)) - 1n;
    }
  }

  /** Maps the page or block around `va` at `level` to `pa`. */
  map(va: bigint, pa: number, level = 3, bits = S1_RW, tableBits = 0n): void {
    this.write(this.slot(va, level, tableBits), descriptorAddress(pa, this.granule) | bits | (level === 3 ? 3n : 1n));
  }
}

/** An address as descriptors hold it: with a 64K granule bits 51:48 are in bits 15:12. */
function descriptorAddress(address: number, granule: number): bigint {
  const a = BigInt(address);
  return granule === 16 ? (a & 0xffff_ffff_ffffn) | ((a >> 48n) << 12n) : a;
}

function tableAddress(descriptor: bigint, granule: number): number {
  const low = descriptor & 0xffff_ffff_ffffn & ~((1n << BigInt(granule)) - 1n);
  return Number(granule === 16 ? low | (((descriptor >> 12n) & 0xfn) << 48n) : low);
}

/** Zeroed tables one after the other from `base` on. */
export function bump(base: number, bytes: number): () => number {
  let at = base;
  return () => {
    const now = at;
    at += bytes;
    return now;
  };
}
