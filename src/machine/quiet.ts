import type { MmioDevice } from '../ports/mmio.ts';

/** A device that answers with nothing behind it: reads give 0, writes vanish. */
export class Quiet implements MmioDevice {
  readonly name: string;
  readonly bytes: number;

  /** @param bytes size of its registers. */
  constructor(bytes: number, name = 'quiet') {
    this.bytes = bytes;
    this.name = name;
  }

  read(): number {
    return 0;
  }

  read64(_offset: number, out: Int32Array): void {
    out.fill(0, 0, 2);
  }

  write(): void {}
}
