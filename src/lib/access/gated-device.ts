import type { MmioDevice } from '../../ports/mmio.ts';
import type { AccessGate } from './access-gate.ts';

/** The registers of a device behind its gate: every window of the device is made from this one. */
export class GatedDevice implements MmioDevice {
  readonly name: string;
  readonly bytes: number;
  readonly #device: MmioDevice;
  readonly #gate: AccessGate;

  constructor(device: MmioDevice, gate: AccessGate) {
    this.name = device.name;
    this.bytes = device.bytes;
    this.#device = device;
    this.#gate = gate;
  }

  /** Where a device does not let anybody in, accesses abort. */
  claims(): boolean {
    return this.#gate.open;
  }

  read(offset: number, size: number): number {
    if (!this.#gate.enter()) return 2 ** (8 * size) - 1;
    try {
      return this.#device.read(offset, size);
    } finally {
      this.#gate.leave();
    }
  }

  read64(offset: number, out: Int32Array): void {
    out.fill(-1, 0, 2);
    if (!this.#gate.enter()) return;
    try {
      this.#device.read64(offset, out);
    } finally {
      this.#gate.leave();
    }
  }

  write(offset: number, size: number, lo: number, hi: number): void {
    if (!this.#gate.enter()) return;
    try {
      this.#device.write(offset, size, lo, hi);
    } finally {
      this.#gate.leave();
    }
  }
}

/** How a device goes on with what no access to it causes. */
export interface OwnWork {
  /** Runs an action at once, with nobody let in meanwhile. */
  readonly alone: (action: () => void) => void;
  /** The same at the next occasion outside of any access. */
  readonly later: (action: () => void) => void;
}

/**
 * Work of a device's own behind its gate, as an access is: a function that it sets going could otherwise reach the registers in
 * the middle of it.
 * @param later runs an action at the next occasion outside of any access.
 */
export function ownWork(gate: AccessGate, later: (action: () => void) => void): OwnWork {
  const alone = (action: () => void): void => {
    // The device is at work already, and nobody is let in.
    if (!gate.open) action();
    // Accesses lie in each other as deep as they may: it waits for the end of them.
    else if (!gate.within(action)) later(() => alone(action));
  };
  return { alone, later: (action) => later(() => alone(action)) };
}
