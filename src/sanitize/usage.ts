import { POW2 } from '../core/bits.ts';
import { ACCESS } from '../ports/dma.ts';
import type { Course } from './course.ts';
import { ENTRY } from './formats.ts';
import type { EntryChange, TableNode, TranslationTree } from './tree.ts';

/** A tree is judged as a whole from this many pages on (16 MiB), and is too wide from this many pages for each that is used. */
const MANY = 4096;
const TOO_WIDE = 16;
/** A leaf of `TableNode.used`: the access's kind was told. */
const TOLD = 0x80;

/** The hints about rights: what was mapped against what was used. */
export class Usage {
  readonly #course: Course;
  readonly #ramPages: number;
  /** WatchedStreams whose accesses are told at all. */
  readonly #seen = new Set<number>();
  readonly #passed = new Set<number>();
  /** Of some access only what the entry allows was told. */
  #untold = false;

  constructor(course: Course, ramPages: number) {
    this.#course = course;
    this.#ramPages = ramPages;
  }

  /** A leaf came or went. */
  entry(c: EntryChange): void {
    const { tree } = c;
    const pages = POW2[c.shift - 12]!;
    if (c.kind === ENTRY.LEAF && c.oldKind !== ENTRY.LEAF) {
      tree.mappedPages += pages;
      if (tree.mappedPages > tree.mostPages) tree.mostPages = tree.mappedPages;
      if (c.out === c.base) tree.identityPages += pages;
    }
    if (c.oldKind !== ENTRY.LEAF || c.kind === ENTRY.LEAF) return;
    tree.mappedPages -= pages;
    if (c.oldOut === c.base) tree.identityPages -= pages;
    const used = c.node.used === null ? 0 : c.node.used[c.at]!;
    if (c.node.page.late) return;
    const [stream] = tree.streams;
    if (stream === undefined || !this.#seen.has(stream)) return;
    if (used === 0) this.#hint('never-used', stream, c.base, 'was mapped and unmapped without an access');
    else if ((c.oldPerm & ACCESS.WRITE) !== 0 && used === (TOLD | ACCESS.READ))
      this.#hint('never-written', stream, c.base, 'was mapped for writing and only read: map it read-only');
  }

  #hint(rule: 'never-used' | 'never-written', stream: number, page: number, what: string): void {
    this.#course.findings.add(rule, {
      stream,
      page,
      events: [this.#course.event],
      message: `0x${(page * 4096).toString(16)} ${what}`,
    });
  }

  /** @param told the kind of the access was told, not only what the entry allows. */
  access(tree: TranslationTree, node: TableNode, stream: number, access: number, told: boolean): void {
    this.#seen.add(stream);
    if (!told) this.#untold = true;
    node.used ??= new Uint8Array(512);
    const before = node.used[tree.at]!;
    if (before === 0) tree.usedPages += POW2[node.shift - 12]!;
    node.used[tree.at] = before | access | (told ? TOLD : 0);
  }

  /** An access passed while the IOMMU protected nothing. */
  unprotected(stream: number): void {
    this.#course.findings.add('dma-before-protection', {
      stream,
      events: [this.#course.event],
      message:
        'the function accessed memory while the IOMMU let everything pass: enable it, or block by default, before functions are started',
    });
  }

  /** A stream that has an entry passes untranslated. */
  passed(stream: number): void {
    this.#seen.add(stream);
    if (this.#passed.has(stream)) return;
    this.#passed.add(stream);
    this.#course.findings.add('identity-of-all-memory', {
      stream,
      events: [this.#course.event],
      message: 'the function reaches all of memory: its stream passes untranslated',
    });
  }

  finish(trees: readonly TranslationTree[]): void {
    const { findings } = this.#course;
    if (this.#untold) findings.cannotJudge('never-written', 'of accesses only what their entries allow was recorded');
    if (this.#seen.size === 0) {
      for (const rule of ['use-after-unmap', 'never-used', 'never-written', 'wider-than-used'] as const)
        findings.cannotJudge(rule, 'no translated access was recorded');
    }
    for (const tree of trees) {
      const [stream] = tree.streams;
      const { event } = this.#course;
      if (stream === undefined) continue;
      if (tree.identityPages >= 0.9 * this.#ramPages) {
        const message = 'the function reaches all of memory: every page of it is mapped to itself';
        findings.add('identity-of-all-memory', { stream, events: [event], message });
        continue;
      }
      if (!this.#seen.has(stream) || tree.mostPages < MANY || tree.usedPages * TOO_WIDE > tree.mostPages) continue;
      findings.add('wider-than-used', {
        stream,
        events: [event],
        message: `${tree.mostPages} pages were mapped at once and ${tree.usedPages} ever used`,
      });
    }
  }
}
