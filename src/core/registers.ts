/**
 * A register as its specification's table has it. Masks are bigint in the table (read once, at construction) so that
 * 64-bit registers read like the spec.
 */
export interface RegisterSpec {
  /** Byte offset in the block. */
  readonly at: number;
  /** Bytes: 4 or 8. */
  readonly size: 4 | 8;
  /** Value after reset (default: 0). */
  readonly reset?: bigint;
  /** Bits a guest write replaces. */
  readonly rw?: bigint;
  /** Bits a guest write of one clears. */
  readonly w1c?: bigint;
  /** Bits that always read as zero (write-only commands). They must also be in `rw` to be kept. */
  readonly wo?: bigint;
  /** name: [lowest bit, width] */
  readonly fields?: Readonly<Record<string, readonly [at: number, bits: number]>>;
}

/** Registers of a block by name. */
export type RegisterTable = Readonly<Record<string, RegisterSpec>>;

/**
 * The words of one register block with the masks of its table. It knows no side effects: the device that owns it looks at
 * the offset after the write. Nothing here allocates after construction.
 */
export class RegisterFile {
  readonly #words: Int32Array;
  readonly #reset: Int32Array;
  readonly #rw: Int32Array;
  readonly #w1c: Int32Array;
  readonly #wo: Int32Array;

  /** @param bytes size of the block, a multiple of 4; every register of `table` lies inside. */
  constructor(table: RegisterTable, bytes: number) {
    const n = bytes >>> 2;
    this.#words = new Int32Array(n);
    this.#reset = new Int32Array(n);
    this.#rw = new Int32Array(n);
    this.#w1c = new Int32Array(n);
    this.#wo = new Int32Array(n);
    for (const r of Object.values(table)) {
      for (let half = 0; half < r.size >>> 2; half++) {
        const i = (r.at >>> 2) + half;
        const pick = (m: bigint | undefined) => Number(((m ?? 0n) >> BigInt(32 * half)) & 0xffff_ffffn) | 0;
        this.#reset[i] = pick(r.reset);
        this.#rw[i] = pick(r.rw);
        this.#w1c[i] = pick(r.w1c);
        this.#wo[i] = pick(r.wo);
      }
    }
    this.reset();
  }

  /** Every register takes its reset value. */
  reset(): void {
    this.#words.set(this.#reset);
  }

  /** The stored word, write-only bits included. `offset` in bytes, 4-aligned. */
  get(offset: number): number {
    return this.#words[offset >>> 2]!;
  }

  /** Sets the stored word, past every mask: for the device itself. */
  set(offset: number, value: number): void {
    this.#words[offset >>> 2] = value;
  }

  /** What the guest reads at a 4-aligned offset: unsigned. */
  read32(offset: number): number {
    return (this.#words[offset >>> 2]! & ~this.#wo[offset >>> 2]!) >>> 0;
  }

  /** Applies the masks of one 32-bit guest write and returns the word now stored. */
  write32(offset: number, value: number): number {
    const i = offset >>> 2;
    const rw = this.#rw[i]!;
    const now = ((this.#words[i]! & ~rw) | (value & rw)) & ~(value & this.#w1c[i]!);
    this.#words[i] = now;
    return now;
  }

  /** A one-off change of the power-on value (identity registers by property). */
  preset(offset: number, value: number): void {
    this.#reset[offset >>> 2] = value;
    this.#words[offset >>> 2] = value;
  }

  /** The stored words, write-only bits included. */
  save(): number[] {
    return Array.from(this.#words);
  }

  /** Goes back to saved words. @param words of a file of the same size. */
  load(words: readonly number[]): void {
    this.#words.set(words);
  }
}
