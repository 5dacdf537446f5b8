import { ViommuError } from '../../core/errors.ts';
import type { MmioDevice } from '../../ports/mmio.ts';
import type { V86Io } from './internals.ts';

/** v86 traps memory in blocks of this size. */
const BLOCK = 0x2_0000;

interface Claim {
  readonly base: number;
  readonly end: number;
  readonly device: MmioDevice;
}

/**
 * Windows of any size on v86's 128 KiB blocks. v86 calls with 1 and 4 bytes only (2 bytes as two of 1, 8 as two of 4, low
 * first), with addresses and values that may be negative, and dies silently when a handler throws: so nothing escapes here.
 */
export class V86Mmio {
  readonly #io: V86Io;
  readonly #enter: () => void;
  readonly #leave: () => void;
  readonly #report: (error: unknown) => void;
  readonly #blocks = new Set<number>();
  #claims: Claim[] = [];

  /** @param enter called before every access. @param leave behind every access. */
  constructor(io: V86Io, enter: () => void, leave: () => void, report: (error: unknown) => void) {
    this.#io = io;
    this.#enter = enter;
    this.#leave = leave;
    this.#report = report;
  }

  /**
   * Claims [base, base + device.bytes).
   * @returns gives it up. @throws ViommuError `EBUSY` when something has it.
   */
  claim(base: number, device: MmioDevice): () => void {
    const c: Claim = { base, end: base + device.bytes, device };
    const hit = this.#claims.find((o) => o.base < c.end && c.base < o.end);
    if (hit !== undefined) {
      throw new ViommuError('EBUSY', 'caller', `${device.name} overlaps ${hit.device.name}`, { base, end: c.end });
    }
    this.#claims.push(c);
    for (let b = base - (base % BLOCK); b < c.end; b += BLOCK) this.#trap(b);
    return () => {
      this.#claims = this.#claims.filter((o) => o !== c);
    };
  }

  #trap(block: number): void {
    if (this.#blocks.has(block)) return;
    this.#blocks.add(block);
    const read = (size: number) => (address: number) => this.#read(address >>> 0, size);
    const write = (size: number) => (address: number, value: number) => this.#write(address >>> 0, size, value);
    this.#io.mmap_register(block, BLOCK, read(1), write(1), read(4), write(4));
  }

  #find(address: number): Claim | null {
    for (const c of this.#claims) if (address >= c.base && address < c.end) return c;
    return null;
  }

  #read(address: number, size: number): number {
    const c = this.#find(address);
    const all = size === 1 ? 0xff : -1;
    if (c === null) return all;
    try {
      this.#enter();
      const value = c.device.read(address - c.base, size) & all;
      this.#leave();
      return value;
    } catch (error) {
      this.#report(error);
      return all;
    }
  }

  #write(address: number, size: number, value: number): void {
    const c = this.#find(address);
    if (c === null) return;
    try {
      this.#enter();
      c.device.write(address - c.base, size, size === 1 ? value & 0xff : value, 0);
      this.#leave();
    } catch (error) {
      this.#report(error);
    }
  }
}
