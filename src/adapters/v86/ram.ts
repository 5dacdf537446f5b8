import type { Backing } from '../../ports/memory.ts';
import type { V86Cpu } from './internals.ts';

const PAGE = 4096;

/**
 * v86's RAM. It lives in the WASM memory, whose buffer is replaced when it grows, and the JIT must hear of every store.
 */
export class V86Ram implements Backing {
  readonly bytes: number;
  readonly #cpu: V86Cpu;
  #buffer: ArrayBufferLike;
  #words: Int32Array;
  /** The storage that was told of last. Whoever looks at `words` in between must not make it look as if it had been told. */
  #told: ArrayBufferLike;
  readonly #dirty = new Set<number>();
  /** Called when the storage was found at a new place: `AddressSpace.moved` of every space that holds it. */
  onMoved: (() => void) | null = null;

  constructor(cpu: V86Cpu) {
    this.#cpu = cpu;
    this.bytes = cpu.memory_size[0]! >>> 0;
    this.#buffer = cpu.wasm_memory.buffer;
    this.#told = this.#buffer;
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
    if (this.#cpu.wasm_memory.buffer === this.#told) return;
    this.words();
    this.#told = this.#buffer;
    this.onMoved?.();
  }

  /**
   * The JIT must hear of the page before the guest runs on. It hears later, in `flush`: telling it can make the WASM memory
   * grow, and that must not happen under a walk that holds the old storage.
   */
  wrote(offset: number, bytes: number): void {
    for (let page = offset >>> 12; page <= (offset + bytes - 1) >>> 12; page++) this.#dirty.add(page);
  }

  /** On the way back to the emulator: compiled code of every page that was written is thrown away. */
  flush(): void {
    if (this.#dirty.size === 0) return;
    for (const page of this.#dirty) {
      const at = page * PAGE;
      this.#cpu.write_blob(new Uint8Array(this.words().buffer, this.words().byteOffset + at, 1), at);
    }
    this.#dirty.clear();
    this.check();
  }
}
