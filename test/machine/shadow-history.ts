import { ACCESS } from '../../src/ports/dma.ts';

/**
 * What a guest's table says of a page: where it lies (bytes), and READ and WRITE. null: nothing. `large`: by a leaf above
 * 4 KiB.
 */
export type Said = { readonly gpa: number; readonly perm: number; readonly large?: boolean } | null;

/**
 * The slow model of what an IOMMU may know of a guest-owned stage: for each page everything the guest's tables have said
 * since the last completed invalidation that reaches the page, the present included.
 */
export class ShadowHistory {
  readonly #said = new Map<number, Said[]>();
  readonly #ram: (gpa: number) => boolean;

  /** @param ram whether memory is at a guest-physical address now. */
  constructor(ram: (gpa: number) => boolean) {
    this.#ram = ram;
  }

  of(page: number): readonly Said[] {
    return this.#said.get(page) ?? [null];
  }

  /** The tables say something else now. */
  changed(page: number, now: Said): void {
    this.#said.set(page, [...this.of(page), now]);
  }

  /** An invalidation reached the page: only the present counts. */
  forget(page: number): void {
    this.#said.set(page, [this.of(page).at(-1)!]);
  }

  /** An invalidation reached another page of every large leaf that the page has belonged to. */
  forgetLarge(page: number): void {
    const said = this.of(page);
    this.#said.set(page, [...said.slice(0, -1).filter((s) => s?.large !== true), said.at(-1)!]);
  }

  /**
   * Judges an access to offset `offset` of a page. @param got where it went, or a text when it did not.
   * @returns what is wrong; '' when nothing is.
   */
  judge(page: number, offset: number, access: number, got: number | string): string {
    const answers = this.of(page).map((s) => this.#answer(s, offset, access));
    if (answers.includes(got)) return '';
    // Parts of what is cached and parts of what is not may be mixed: then nothing but a refusal is possible.
    if (typeof got === 'string' && answers.length > 1) return '';
    return `page ${page.toString(16)} ${access === ACCESS.WRITE ? 'write' : 'read'}: ${got} is none of ${answers}`;
  }

  #answer(s: Said, offset: number, access: number): number | string {
    if (s === null || (access & ~s.perm) !== 0 || !this.#ram(s.gpa)) return 'ABORT';
    return s.gpa + offset;
  }
}
