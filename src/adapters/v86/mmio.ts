import { ViommuError } from '../../core/errors.ts';
import type { MmioDevice } from '../../ports/mmio.ts';
import type { V86Cpu } from './internals.ts';

/** v86 traps memory in blocks of this size. */
const BLOCK = 0x2_0000;
const BLOCK_SHIFT = 17;

interface Claim {
  readonly base: number;
  readonly end: number;
  readonly device: MmioDevice;
  readonly under: boolean;
}

/**
 * Windows of any size on v86's 128 KiB blocks. v86 calls with 1 and 4 bytes only (2 bytes as two of 1, 8 as two of 4, low
 * first), with addresses and values that may be negative, and dies silently when a handler throws: so nothing escapes here.
 */
export class V86Mmio {
  readonly #cpu: V86Cpu;
  readonly #enter: () => void;
  readonly #leave: () => void;
  readonly #report: (error: unknown) => void;
  readonly #blocks = new Set<number>();
  #claims: Claim[] = [];

  /** @param enter called before every access. @param leave behind every access. */
  constructor(cpu: V86Cpu, enter: () => void, leave: () => void, report: (error: unknown) => void) {
    this.#cpu = cpu;
    this.#enter = enter;
    this.#leave = leave;
    this.#report = report;
  }

  /**
   * Claims [base, base + device.bytes).
   * @param under a guest chose the place (a BAR): what else is there keeps it.
   * @returns gives it up. @throws ViommuError `EBUSY` when something has it.
   */
  claim(base: number, device: MmioDevice, under = false): () => void {
    const c: Claim = { base, end: base + device.bytes, device, under };
    const hit = this.#claims.find((o) => !o.under && o.base < c.end && c.base < o.end);
    if (hit !== undefined && !under) {
      throw new ViommuError('EBUSY', 'caller', `${device.name} overlaps ${hit.device.name}`, { base, end: c.end });
    }
    if (under) this.#claims.push(c);
    else this.#claims.unshift(c);
    for (let b = base - (base % BLOCK); b < c.end; b += BLOCK) this.#trap(b);
    return () => {
      this.#claims = this.#claims.filter((o) => o !== c);
    };
  }

  #trap(block: number): void {
    if (this.#blocks.has(block)) return;
    this.#blocks.add(block);
    // What had the block before (v86's own ROMs) keeps what nobody claims of it.
    const cpu = this.#cpu;
    const i = block >>> BLOCK_SHIFT;
    const read = (size: number, old: ((a: number) => number) | undefined) => (address: number) =>
      this.#read(address >>> 0, size, old);
    const write =
      (size: number, old: ((a: number, v: number) => void) | undefined) => (address: number, value: number) =>
        this.#write(address >>> 0, size, value, old);
    cpu.io.mmap_register(
      block,
      BLOCK,
      read(1, cpu.memory_map_read8[i]),
      write(1, cpu.memory_map_write8[i]),
      read(4, cpu.memory_map_read32[i]),
      write(4, cpu.memory_map_write32[i]),
    );
  }

  #find(address: number): Claim | null {
    for (const c of this.#claims) if (address >= c.base && address < c.end) return c;
    return null;
  }

  #read(address: number, size: number, before: ((address: number) => number) | undefined): number {
    const c = this.#find(address);
    const all = size === 1 ? 0xff : -1;
    if (c === null) return before?.(address) ?? all;
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

  #write(
    address: number,
    size: number,
    value: number,
    before: ((address: number, value: number) => void) | undefined,
  ): void {
    const c = this.#find(address);
    if (c === null) {
      before?.(address, value);
      return;
    }
    try {
      this.#enter();
      c.device.write(address - c.base, size, size === 1 ? value & 0xff : value, 0);
      this.#leave();
    } catch (error) {
      this.#report(error);
    }
  }
}
