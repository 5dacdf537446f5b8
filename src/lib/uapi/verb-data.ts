import type { UserData } from '../../ports/iommufd.ts';

/** Driver data of a host verb that lives in this process. What lies beyond its end is refused, as the kernel answers EFAULT. */
export class VerbData implements UserData {
  readonly #bytes: Uint8Array;

  /** @param bytes the structure; not copied, so the caller sees what the host writes into it. */
  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get length(): number {
    return this.#bytes.length;
  }

  copyIn(offset: number, into: Uint8Array): boolean {
    if (offset + into.length > this.#bytes.length) return false;
    into.set(this.#bytes.subarray(offset, offset + into.length));
    return true;
  }

  copyOut(offset: number, from: Uint8Array): boolean {
    if (offset + from.length > this.#bytes.length) return false;
    this.#bytes.set(from, offset);
    return true;
  }
}
