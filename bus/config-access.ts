import type { MmioDevice } from '../src/ports/mmio.ts';

/** Who answers configuration requests: naturally aligned, 1, 2 or 4 bytes, unsigned. All ones: no function is there. */
export interface ConfigTarget {
  /** A configuration read by bus number; where no function answers, all ones. */
  configRead(bus: number, devfn: number, offset: number, size: number): number;
  /** A configuration write by bus number. */
  configWrite(bus: number, devfn: number, offset: number, size: number, value: number): void;
}

/** Enhanced configuration access: 4 KiB per function, bus << 20 | devfn << 12 | offset. */
export class Ecam implements MmioDevice {
  readonly name = 'ecam';
  readonly bytes: number;
  readonly #target: ConfigTarget;

  /** @param buses how many buses the window covers, 1 … 256. */
  constructor(target: ConfigTarget, buses = 256) {
    this.#target = target;
    this.bytes = buses * 0x10_0000;
  }

  read(offset: number, size: number): number {
    return this.#target.configRead(offset >>> 20, (offset >>> 12) & 0xff, offset & 0xfff, size);
  }

  read64(offset: number, out: Int32Array): void {
    out[0] = this.read(offset, 4);
    out[1] = this.read(offset + 4, 4);
  }

  write(offset: number, size: number, lo: number, hi: number): void {
    const at = offset & 0xfff;
    const write = (o: number, n: number, v: number) =>
      this.#target.configWrite(offset >>> 20, (offset >>> 12) & 0xff, o, n, v >>> 0);
    write(at, Math.min(size, 4), lo);
    if (size === 8) write(at + 4, 4, hi);
  }
}

/**
 * Configuration mechanism 1: address port 0xcf8, data ports 0xcfc … 0xcff. Clients put the two low offset bits either into
 * the address or into the data port, so both count.
 */
export class ConfigPorts {
  readonly #target: ConfigTarget;
  #address = 0;

  constructor(target: ConfigTarget) {
    this.#target = target;
  }

  /** @returns whether the port is one of the eight. */
  claims(port: number): boolean {
    return port >= 0xcf8 && port <= 0xcff;
  }

  /** A read of 1, 2 or 4 bytes at 0xcf8 to 0xcff. */
  read(port: number, size: number): number {
    if (port < 0xcfc) {
      const word = this.#address >>> (8 * (port & 3));
      return size === 4 ? word : word & (size === 2 ? 0xffff : 0xff);
    }
    if (this.#address >>> 31 === 0) return ones(size);
    return this.#target.configRead(
      (this.#address >>> 16) & 0xff,
      (this.#address >>> 8) & 0xff,
      this.#offset(port),
      size,
    );
  }

  /** A write of 1, 2 or 4 bytes at 0xcf8 to 0xcff. */
  write(port: number, size: number, value: number): void {
    if (port < 0xcfc) {
      if (port === 0xcf8 && size === 4) this.#address = value >>> 0;
      return;
    }
    if (this.#address >>> 31 === 0) return;
    const bus = (this.#address >>> 16) & 0xff;
    this.#target.configWrite(bus, (this.#address >>> 8) & 0xff, this.#offset(port), size, value);
  }

  #offset(port: number): number {
    return (this.#address & 0xff) | (port & 3);
  }

  /** The address register. */
  save(): number {
    return this.#address;
  }

  /** Goes back to a saved address register. */
  load(address: number): void {
    this.#address = address;
  }
}

function ones(size: number): number {
  return size === 4 ? 0xffff_ffff : size === 2 ? 0xffff : 0xff;
}
