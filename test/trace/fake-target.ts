import { fromWords } from '../../src/core/bits.ts';
import { ACCESS, DMA } from '../../src/ports/dma.ts';
import type { Tell } from '../../src/ports/tell.ts';
import type { ReplayTarget } from '../../src/trace/index.ts';

export const RAM = 0x4000_0000;
const PAGES = RAM + 0x1000;
const QUEUE = RAM + 0x2000;

/**
 * A machine small enough to be seen through: registers keep what is written; the table at RAM + 0x1000 has 8 bytes per
 * page of IOVA (frame | write << 1 | read); a refused access writes a record (8 words) behind the last one at
 * RAM + 0x2000 and pulses evtq; register 0x98 counts its value as executed CMD_SYNCs.
 */
export class FakeTarget implements ReplayTarget {
  readonly #tell: Tell;
  readonly #ram = new Uint8Array(0x10_0000);
  readonly #regs = new Map<number, number>();
  #records = 0;
  lo = 0;
  hi = 0;
  out = 0;
  perm = 0;
  guestShift = 12;
  tag = 7;
  outAddress = 0;
  outData = 0;
  resets = 0;
  /** Makes it wrong in one way. */
  fault: 'none' | 'silent' | 'mute' | 'forgetful' | 'noisy' = 'none';

  constructor(tell: Tell) {
    this.#tell = tell;
  }

  #at(gpa: number, bytes: number): number {
    return gpa >= RAM && gpa + bytes <= RAM + this.#ram.length ? gpa - RAM : -1;
  }

  store(gpa: number, size: number, lo: number, hi: number): boolean {
    const at = this.#at(gpa, size);
    if (at < 0) return false;
    for (let b = 0; b < size; b++) this.#ram[at + b] = b < 4 ? lo >>> (8 * b) : hi >>> (8 * (b - 4));
    return true;
  }

  page(gpa: number, bytes: Uint8Array | null): boolean {
    const at = this.#at(gpa, 4096);
    if (at < 0) return false;
    this.#ram.set(bytes ?? new Uint8Array(4096), at);
    return true;
  }

  drop(): void {}

  load(gpa: number, into: Uint8Array): boolean {
    const at = this.#at(gpa, into.length);
    if (at < 0) return false;
    into.set(this.#ram.subarray(at, at + into.length));
    return true;
  }

  read(offset: number): void {
    this.lo = this.#regs.get(offset) ?? 0;
    this.hi = 0;
  }

  write(offset: number, _size: number, lo: number): void {
    this.#regs.set(offset, lo);
    if (offset !== 0x98) return;
    for (let n = 0; n < lo; n++)
      this.#tell({ what: 'command', device: 'fake', name: 'SMMU_CMD_SYNC', words: [0x46, 0, 0, 0], error: 0 });
  }

  dma(sid: number, lo: number, hi: number, access: number): number {
    const entry = PAGES - RAM + (lo >>> 12) * 8;
    const perm = this.#ram[entry]! & 3;
    if ((perm & access) === access) {
      this.perm = perm;
      this.out = fromWords(new DataView(this.#ram.buffer).getUint32(entry, true) & ~0xfff, 0) + (lo & 0xfff);
      return DMA.OK;
    }
    if (this.fault === 'silent') return DMA.ABORT;
    const words = [perm === 0 ? 0x10 : 0x13, sid, 0, access === ACCESS.READ ? 0x208 : 0x200, lo, hi, 0, 0];
    const gpa = QUEUE + 32 * this.#records++;
    if (this.fault !== 'forgetful') for (const [n, w] of words.entries()) this.store(gpa + 4 * n, 4, w, 0);
    this.#tell({ what: 'record', device: 'fake', address: gpa, words });
    if (this.fault !== 'mute') this.#tell({ what: 'irq', device: 'fake', line: 'evtq' });
    if (this.fault === 'noisy') this.#tell({ what: 'irq', device: 'fake', line: 'gerror' });
    return DMA.ABORT;
  }

  remap(): boolean {
    return false;
  }

  irte(): boolean {
    return false;
  }

  reset(): void {
    this.resets++;
    this.#records = 0;
  }
}
