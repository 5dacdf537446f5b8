import { MOCK } from '../../../spec/iommufd/selftest.ts';
import type { DirtySink } from '../../kernel/driver.ts';

const CHUNK = 256;

interface Run {
  readonly iova: number;
  readonly bytes: number;
  readonly hpa: number;
  /** Bytes one dirty bit stands for. */
  readonly unit: number;
  dirty: Uint8Array | null;
}

/**
 * The mock's page table: runs by IOVA (the aperture and real addresses are exact as numbers), in sorted chunks, so that
 * insertion and lookup stay cheap with many runs.
 */
export class MockMapping {
  readonly #chunks: Run[][] = [];
  readonly #huge: boolean;
  readonly #unit: number;

  /** @param huge 1 MiB entries where alignment allows. @param unit bytes that become dirty together, without it. */
  constructor(huge: boolean, unit: number) {
    this.#huge = huge;
    this.#unit = unit;
  }

  map(iova: number, hpa: number, bytes: number): void {
    if (!this.#huge) {
      // A piece of half a page has an entry of its own.
      this.#insert(iova, hpa, bytes, bytes < this.#unit ? MOCK.PAGE : this.#unit);
      return;
    }
    const end = iova + bytes;
    for (let at = iova; at < end; ) {
      const there = hpa + (at - iova);
      const large = at % MOCK.HUGE_PAGE === 0 && there % MOCK.HUGE_PAGE === 0 && end - at >= MOCK.HUGE_PAGE;
      const next = large
        ? at + Math.floor((end - at) / MOCK.HUGE_PAGE) * MOCK.HUGE_PAGE
        : Math.min(end, (Math.floor(at / MOCK.HUGE_PAGE) + 1) * MOCK.HUGE_PAGE);
      this.#insert(at, there, next - at, large ? MOCK.HUGE_PAGE : 4096);
      at = next;
    }
  }

  #insert(iova: number, hpa: number, bytes: number, unit: number): void {
    const run: Run = { iova, bytes, hpa, unit, dirty: null };
    const c = Math.max(0, this.#chunkOf(iova));
    const chunk = this.#chunks[c];
    if (chunk === undefined) {
      this.#chunks.push([run]);
      return;
    }
    let i = chunk.length;
    while (i > 0 && chunk[i - 1]!.iova > iova) i--;
    chunk.splice(i, 0, run);
    if (chunk.length > CHUNK) this.#chunks.splice(c + 1, 0, chunk.splice(CHUNK / 2));
  }

  /** Index of the last chunk that begins at or below `iova`; -1: none does. */
  #chunkOf(iova: number): number {
    let lo = 0;
    let hi = this.#chunks.length;
    while (lo < hi) {
      const mid = (lo + hi) >>> 1;
      if (this.#chunks[mid]![0]!.iova <= iova) lo = mid + 1;
      else hi = mid;
    }
    return lo - 1;
  }

  #find(iova: number): Run | null {
    const chunk = this.#chunks[this.#chunkOf(iova)];
    if (chunk === undefined) return null;
    let lo = 0;
    let hi = chunk.length;
    while (lo < hi) {
      const mid = (lo + hi) >>> 1;
      if (chunk[mid]!.iova <= iova) lo = mid + 1;
      else hi = mid;
    }
    const r = chunk[lo - 1];
    return r !== undefined && iova < r.iova + r.bytes ? r : null;
  }

  /** Removes every run that begins in [iova, end). @returns their bytes. */
  unmap(iova: number, end: number): number {
    let bytes = 0;
    for (let c = Math.max(0, this.#chunkOf(iova)); c < this.#chunks.length; ) {
      const chunk = this.#chunks[c]!;
      if (chunk[0]!.iova >= end) break;
      const kept = chunk.filter((r) => {
        if (r.iova < iova || r.iova >= end) return true;
        bytes += r.bytes;
        return false;
      });
      if (kept.length === 0) this.#chunks.splice(c, 1);
      else this.#chunks[c++] = kept;
    }
    return bytes;
  }

  /** Host-physical address, or -1. */
  translate(iova: number): number {
    const r = this.#find(iova);
    return r === null ? -1 : r.hpa + (iova - r.iova);
  }

  /** Marks the entry that maps `iova`. @returns whether there is one. */
  setDirty(iova: number): boolean {
    const r = this.#find(iova);
    if (r === null) return false;
    r.dirty ??= new Uint8Array(Math.ceil(r.bytes / r.unit));
    r.dirty[Math.floor((iova - r.iova) / r.unit)] = 1;
    return true;
  }

  readDirty(iova: number, end: number, clear: boolean, sink: DirtySink): void {
    for (let c = Math.max(0, this.#chunkOf(iova)); c < this.#chunks.length; c++) {
      for (const r of this.#chunks[c]!) {
        if (r.iova >= end) return;
        if (r.dirty === null || r.iova + r.bytes <= iova) continue;
        for (let i = 0; i < r.dirty.length; i++) {
          const at = r.iova + i * r.unit;
          if (r.dirty[i] === 0 || at + r.unit <= iova || at >= end) continue;
          sink.dirty(BigInt(at), r.unit);
          if (clear) r.dirty[i] = 0;
        }
      }
    }
  }
}
