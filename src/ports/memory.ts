/**
 * Storage behind a piece of an address space. An emulator's RAM may move (v86 grows its WASM memory): `words()` is asked
 * again after `moved` was called.
 */
export interface Backing {
  /** The whole backing as little-endian words. Word 0 is byte 0 of the backing. */
  words(): Int32Array;
  /**
   * For storage that somebody else also writes (a file an emulator shares): brings the 4 KiB page at this byte offset up to
   * date in `words()`. Called before the page is looked at.
   */
  fetch?(offset: number): void;
  /** The counterpart: these bytes of `words()` were changed through `store…` or `writeBytes`. */
  wrote?(offset: number, bytes: number): void;
}

/** A register window in an address space: offsets are relative to its base. */
export interface MemoryWindow {
  /** For messages and listings. */
  readonly name: string;
  /** 1, 2 or 4 bytes: unsigned. */
  read(offset: number, size: number): number;
  /** 1, 2 or 4 bytes, naturally aligned. */
  write(offset: number, size: number, value: number): void;
  /**
   * Whether anything answers a read (or a write) at `offset`; a window without it answers everywhere. Where nothing does,
   * accesses abort.
   */
  claims?(offset: number, write?: boolean): boolean;
}

/**
 * A physical address space as walkers, queues and DMA see it. Addresses are plain numbers (bytes, ≤ 52 bits).
 *
 * The fast way: `locate(addr)` and then read `words[index]` (write through `store…` only). It finds RAM only; a hole or a window gives false, and
 * then `load32`/`store32` decide (a window answers, a hole aborts). Nothing here allocates.
 */
export interface Memory {
  /**
   * Grows whenever what `locate` found may no longer be true (RAM added, taken away, moved). Who sees the same number may
   * go on using it. Absent or -1: nothing may be kept from one request to the next.
   */
  readonly changes?: number;
  /** Valid after `locate` returned true, until the next call of any method. */
  words: Int32Array;
  /** Word index of the located address in `words`. */
  index: number;
  /** Words from `index` to the end of that piece of RAM. */
  room: number;
  /** The word(s) the last successful load read, signed. */
  lo: number;
  /** High word of the last successful 8-byte load, signed. */
  hi: number;
  /** @param addr 4-byte aligned. @returns whether RAM is there (readable; see `writable`). */
  locate(addr: number): boolean;
  /** Whether the RAM found by the last `locate` may be written. */
  writable: boolean;
  /** A 4-byte load into `lo`. @returns false: external abort. */
  load32(addr: number): boolean;
  /** An 8-byte load into `lo`, `hi`. @returns false: external abort. */
  load64(addr: number): boolean;
  /** @returns false: external abort (a hole, or read-only memory). */
  store32(addr: number, value: number): boolean;
  /** An 8-byte store. @param addr 8-byte aligned. @returns false: external abort. */
  store64(addr: number, lo: number, hi: number): boolean;
  /** Any length and alignment. @returns false at the first byte that aborts (earlier bytes are done). */
  readBytes(addr: number, into: Uint8Array): boolean;
  /** Any length and alignment. @returns false at the first byte that aborts (earlier bytes are done). */
  writeBytes(addr: number, from: Uint8Array): boolean;
  /**
   * `count` bytes into `into` from its byte `start` on, as `readBytes`. The address is two words, since a number as large as
   * an address is put on the heap wherever it is handed over.
   */
  readPart(lo: number, hi: number, into: Uint8Array, start: number, count: number): boolean;
  /** The counterpart of `readPart`. */
  writePart(lo: number, hi: number, from: Uint8Array, start: number, count: number): boolean;
  /** Accesses of windows so far, each of up to 4 bytes: what a copy costs beside its length. Absent: there are no windows. */
  readonly windowed?: number;
}
