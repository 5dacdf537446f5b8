import type { Vm } from './vm.ts';

const PAGE = 4096;

/** Guest memory as a replay stores into it: the VM's own RAM. */
export class ReplayMemory {
  readonly vm: Vm;
  readonly #bytes = new Uint8Array(8);
  readonly #zero = new Uint8Array(PAGE);

  constructor(vm: Vm) {
    this.vm = vm;
  }

  store(gpa: number, size: number, lo: number, hi: number): boolean {
    const { guest } = this.vm.memory;
    if (gpa % size === 0) {
      if (size === 8) return guest.store64(gpa, lo, hi);
      if (size === 4) return guest.store32(gpa, lo);
    }
    const b = this.#bytes;
    for (let i = 0; i < size; i++) b[i] = (i < 4 ? lo : hi) >>> (8 * (i & 3));
    return guest.writeBytes(gpa, b.subarray(0, size));
  }

  page(gpa: number, bytes: Uint8Array | null): boolean {
    return this.vm.memory.guest.writeBytes(gpa, bytes ?? this.#zero);
  }

  /** Memory does not forget what a recording stops to follow. */
  drop(_gpa: number): void {}

  load(gpa: number, into: Uint8Array): boolean {
    return this.vm.memory.guest.readBytes(gpa, into);
  }
}
