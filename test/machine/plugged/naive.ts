import { ConfigSpace } from '../../../src/lib/pci/config-space.ts';
import { endpointHeader } from '../../../src/lib/pci/header.ts';
import { ACCESS, AT, NO_PASID } from '../../../src/ports/dma.ts';
import type { PciFunction, Upstream } from '../../../src/ports/pci.ts';

/** A function somebody else wrote: each write to its register makes it write a hundred times
 * to each of its targets, with no thought of loops. */
export class Naive implements PciFunction {
  readonly name = 'naive';
  readonly windows;
  readonly #config = new ConfigSpace(256);
  readonly #targets: readonly number[];
  #up: Upstream | null = null;
  #inside = 0;
  deepest = 0;
  writes = 0;

  constructor(base: number, targets: readonly number[]) {
    endpointHeader(this.#config, { vendor: 0x1b36, device: 0x00d3, classCode: 0x088000 });
    this.windows = [{ bytes: 4096, io: false, address: () => base }];
    this.#targets = targets;
  }
  configRead(offset: number, size: number): number {
    return this.#config.read(offset, size);
  }
  configWrite(offset: number, size: number, value: number): void {
    this.#config.write(offset, size, value);
  }
  connect(up: Upstream | null): void {
    this.#up = up;
  }
  reset(): void {}
  barRead(): number {
    return this.writes;
  }
  barWrite(): void {
    this.writes++;
    this.deepest = Math.max(this.deepest, ++this.#inside);
    for (const t of this.#targets) {
      for (let i = 0; i < 100; i++)
        this.#up!.write(NO_PASID, t, 0, ACCESS.WRITE, AT.UNTRANSLATED, new Uint8Array(4), 0, 4);
    }
    this.#inside--;
  }
}
