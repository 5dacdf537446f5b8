import type { Backing } from '../../ports/memory.ts';
import type { V86Cpu } from './internals.ts';

/**
 * v86's RAM. It lives in the WASM memory, whose buffer is replaced when it grows, and the JIT must hear of every store.
 */
export class V86Ram implements Backing {
  readonly bytes: number;
  readonly #cpu: V86Cpu;
  #buffer: ArrayBufferLike;
  #words: Int32Array;
  /** Called when the storage was found at a new place: `AddressSpace.moved` of every space that holds it. */
  onMoved: (() => void) | null = null;

  constructor(cpu: V86Cpu) {
    this.#cpu = cpu;
    this.bytes = cpu.memory_size[0]! >>> 0;
    this.#buffer = cpu.wasm_memory.buffer;
    this.#words = this.#view();
  }

  #view(): Int32Array {
    return new Int32Array(this.#buffer, this.#cpu.mem8.byteOffset, this.bytes / 4);
  }

  words(): Int32Array {
    if (this.#cpu.wasm_memory.buffer !== this.#buffer) {
      this.#buffer = this.#cpu.wasm_memory.buffer;
      this.#words = this.#view();
    }
    return this.#words;
  }

  /** Looks whether the memory moved; called at every entry from the emulator. */
  check(): void {
    if (this.#cpu.wasm_memory.buffer !== this.#buffer) {
      this.words();
      this.onMoved?.();
    }
  }

  wrote(offset: number, bytes: number): void {
    const w = this.#words;
    this.#cpu.write_blob(new Uint8Array(w.buffer, w.byteOffset + offset, bytes), offset);
    // Invalidating compiled code can make the WASM memory grow, also in the middle of our own work.
    this.check();
  }
}
