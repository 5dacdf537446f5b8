import { fromWords } from '../core/bits.ts';
import { rangeShift, WHOLE_SPACE } from '../spec/pcie/messages.ts';

/** A translation that a function with ATS was given and has not been told to forget. */
export interface GrantedTranslation {
  /** Requester id, as the guest knows it. */
  readonly rid: number;
  /** Input address of the page (bytes). */
  readonly input: bigint;
  /** Guest-physical address of the page (bytes). */
  readonly out: number;
  /** ACCESS bits. */
  readonly perm: number;
}

const PAGE = 4096;
/** Translations of one function that are kept; beyond, the oldest is taken for forgotten, as an ATC would. */
const MOST = 4096;
/** Pages of an invalidation that are looked up one by one; beyond, every translation is compared. */
const FEW_PAGES = 64;

/**
 * What the ATCs of functions may hold: a function decides itself what it keeps, so this is the most there can be. A
 * translation is in from its answer until an invalidation request covers it (PCIe §10.3.2).
 */
export class GrantedTranslations {
  /** By requester id, then by number of the page. */
  readonly #functions = new Map<number, Map<number, { readonly out: number; readonly perm: number }>>();

  /** The function translates by ATS. @param rid as the guest knows it. */
  add(rid: number): void {
    if (!this.#functions.has(rid)) this.#functions.set(rid, new Map());
  }

  /** An access, or translation request, of `rid` was answered. @param out guest-physical (bytes). @param perm ACCESS bits. */
  granted(rid: number, lo: number, hi: number, out: number, perm: number): void {
    const pages = this.#functions.get(rid);
    if (pages === undefined || out < 0) return;
    const page = Math.floor(fromWords(lo, hi) / PAGE);
    const before = pages.get(page);
    const base = Math.floor(out / PAGE) * PAGE;
    if (before?.out === base && before.perm === perm) return;
    pages.delete(page);
    pages.set(page, { out: base, perm });
    if (pages.size > MOST) pages.delete(pages.keys().next().value!);
  }

  /** An invalidation request in ATS encoding, see `rangeShift`. */
  invalidated(rid: number, lo: number, hi: number): void {
    const pages = this.#functions.get(rid);
    if (pages === undefined) return;
    const shift = rangeShift(lo, hi);
    if (shift === WHOLE_SPACE) {
      pages.clear();
      return;
    }
    const count = 2 ** (shift - 12);
    const page = fromWords(lo & ~0xfff, hi) / PAGE;
    const first = page - (page % count);
    if (count <= FEW_PAGES) for (let n = 0; n < count; n++) pages.delete(first + n);
    else for (const at of pages.keys()) if (at >= first && at < first + count) pages.delete(at);
  }

  /** Machine reset: functions forget. */
  clear(): void {
    for (const pages of this.#functions.values()) pages.clear();
  }

  /** All of them, by function and in the order of granting. */
  list(): GrantedTranslation[] {
    return [...this.#functions].flatMap(([rid, pages]) =>
      [...pages].map(([page, { out, perm }]) => ({ rid, input: BigInt(page) << 12n, out, perm })),
    );
  }
}
