import fc from 'fast-check';
import { expect, test } from 'vitest';
import { INVALIDATE as I, Rig } from './rig.ts';

/** PASID → kind and domain id. 3 and 4 share a domain, 1 and 5 share a table and a domain. */
const SPACES = [
  { pasid: 1, did: 7, kind: 'first' },
  { pasid: 2, did: 8, kind: 'second' },
  { pasid: 3, did: 9, kind: 'nested' },
  { pasid: 4, did: 9, kind: 'second' },
  { pasid: 5, did: 7, kind: 'first' },
] as const;
const PAGES = [0x0n, 0x1000n, 0x7000n, 0x20_0000n, 0x3f_f000n, 0x4000_0000n, 0x7fff_ffff_f000n];
const OUTS = [0x1000_0000n, 0x1000_5000n, 0x2000_0000n, 0x2001_3000n];

type Step =
  | { readonly op: 'dma'; readonly space: number; readonly page: number; readonly write: boolean }
  | { readonly op: 'map'; readonly space: number; readonly page: number; readonly out: number; readonly how: number }
  | { readonly op: 'lazy'; readonly space: number; readonly page: number; readonly out: number };

class Model {
  readonly rig: Rig;
  readonly tables = new Map<number, number>();
  /** What a page may translate to: the tables' content last, older ones as long as nothing was invalidated. */
  readonly may = new Map<string, (bigint | null)[]>();

  constructor(caches: { iotlb: number; walks: number; contexts: number; pasids: number }) {
    const rig = new Rig({ caches });
    this.rig = rig;
    rig.scalable();
    const identity = rig.page();
    for (let a = 0n; a < 0x8_0000n; a += 0x1000n) rig.map(identity, 0x11_0000n + a, 0x11_0000n + a, 3n);
    for (const out of OUTS) rig.map(identity, out, out, 3n);
    for (const { pasid, did, kind } of SPACES) {
      const table = pasid === 5 ? this.tables.get(1)! : rig.page();
      this.tables.set(pasid, table);
      if (kind === 'first') rig.first(pasid, did, table);
      else if (kind === 'second') rig.second(pasid, did, table);
      else rig.nested(pasid, did, table, identity);
    }
    rig.enable(1);
  }

  key(space: number, page: number): string {
    return `${this.tables.get(SPACES[space]!.pasid)}/${page}`;
  }

  /** Changes a page's entry. Entries that were not present need no invalidation. */
  set(space: number, page: number, out: bigint | null): void {
    const { pasid, kind } = SPACES[space]!;
    const flags = kind === 'second' ? 3n : 7n;
    this.rig.map(this.tables.get(pasid)!, PAGES[page]!, out ?? 0n, out === null ? 0n : flags, flags);
    const key = this.key(space, page);
    this.may.set(key, [...(this.may.get(key) ?? [null]), out]);
  }

  /** One of the descriptors that reach this page in every address space over its table. */
  invalidate(space: number, page: number, how: number): void {
    const { did, kind, pasid } = SPACES[space]!;
    const at = PAGES[page]!;
    const both = pasid === 1 || pasid === 5;
    const choices: [bigint, bigint][][] = [
      [I.iotlbGlobal],
      [I.iotlbDomain(did)],
      [I.iotlbPage(did, at)],
      [I.iotlbPage(did, at & ~0xfffn, 9)],
    ];
    if (kind !== 'second') {
      const list = both ? [1, 5] : [pasid];
      choices.push(list.map((p) => I.pasidIotlb(did, p)));
      choices.push(list.map((p) => I.pasidIotlbPage(did, p, at)));
      choices.push(list.map((p) => I.pasidIotlbPage(did, p, at, 3)));
    } else choices.push([I.pasidIotlb(did, pasid)]);
    expect(this.rig.inv(...choices[how % choices.length]!).error).toBe(0);
    const key = this.key(space, page);
    this.may.set(key, [(this.may.get(key) ?? [null]).at(-1)!]);
  }

  check(space: number, page: number, write: boolean): void {
    const got = this.rig.dma(PAGES[page]! + 8n, write ? 2 : 1, 0x10, SPACES[space]!.pasid);
    const allowed = (this.may.get(this.key(space, page)) ?? [null]).map((o) => (o === null ? -1 : Number(o) + 8));
    expect(allowed).toContain(got < 0 ? -1 : got);
  }
}

const space = fc.nat({ max: SPACES.length - 1 });
const page = fc.nat({ max: PAGES.length - 1 });
const out = fc.integer({ min: -1, max: OUTS.length - 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ op: fc.constant('dma' as const), space, page, write: fc.boolean() }),
  fc.record({ op: fc.constant('map' as const), space, page, out, how: fc.nat({ max: 100 }) }),
  fc.record({ op: fc.constant('lazy' as const), space, page, out }),
);

test.each([
  ['large', { iotlb: 4096, walks: 256, contexts: 64, pasids: 64 }],
  ['tiny', { iotlb: 2, walks: 2, contexts: 1, pasids: 1 }],
  ['no', { iotlb: 0, walks: 0, contexts: 0, pasids: 0 }],
])('%s caches: an invalidated page is new, any other old or new, and nothing else is ever seen', (_, sizes) => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const m = new Model(sizes);
      for (const s of steps) {
        if (s.op === 'dma') m.check(s.space, s.page, s.write);
        else {
          m.set(s.space, s.page, s.out < 0 ? null : OUTS[s.out]!);
          if (s.op === 'map') m.invalidate(s.space, s.page, s.how);
        }
      }
      for (let a = 0; a < SPACES.length; a++) for (let p = 0; p < PAGES.length; p++) m.check(a, p, false);
    }),
    { numRuns: 60 },
  );
});
