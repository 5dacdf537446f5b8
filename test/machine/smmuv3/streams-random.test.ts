import { expect, test } from 'vitest';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { Random } from '../../../tools/oracle/random.ts';
import { CMDQ, cfgiSte, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, space } from './rig.ts';

/** Accesses per profile; the environment asks for more. */
const ACCESSES = Number(process.env.VIOMMU_STREAM_ACCESSES ?? 8_000);
/** StreamIDs of the devices. */
const DEVICES = [[8], [9, 10], [11, 12, 13], [16, 17, 18, 19]] as const;
const PAGES = 8;
const PAGE = 0x1000;
/** Where input pages lie, and what they reach. */
const IN = 0x4200_0000;
const DATA = 0x4220_0000;
const S1_SPACES = 4;
const S2_SPACES = 2;
const S2_TABLES = 0x4160_0000;
const ILL = 0x0100_0000;
const EVENTQ_PROD = 0x100a8;

type Pages = (number | null)[];

/** What an entry says, as the guest that wrote it understands it. */
type Entry =
  | { readonly kind: 'invalid' | 'abort' | 'bypass' }
  | { readonly kind: 's1'; readonly s1: number; readonly vmid: number }
  | { readonly kind: 's2'; readonly s2: number }
  | { readonly kind: 'nested'; readonly s1: number; readonly s2: number };

const INVALID: Entry = { kind: 'invalid' };

/** The model: which page an access reaches, by sets of pages and by nothing that looks like a table. */
class Model {
  readonly s1: Pages[] = Array.from({ length: S1_SPACES }, () => new Array(PAGES).fill(null));
  readonly s2: Pages[] = Array.from({ length: S2_SPACES }, () => new Array(PAGES).fill(null));
  readonly written = new Map<number, Entry>();
  /** What is in force; absent: the entry is read on the next use. */
  readonly force = new Map<number, Entry>();
  on = true;

  /** @param n index of the input page. @returns number of the data page reached, -1 - n: the input page itself, or null. */
  reaches(sid: number, n: number): number | null {
    if (!this.on) return -1 - n;
    let entry = this.force.get(sid);
    if (entry === undefined) {
      entry = this.written.get(sid) ?? INVALID;
      if (entry.kind !== 'invalid') this.force.set(sid, entry);
    }
    switch (entry.kind) {
      case 'bypass':
        return -1 - n;
      case 's1':
        return this.s1[entry.s1]![n]!;
      case 's2':
        return this.s2[entry.s2]![n]!;
      case 'nested': {
        const ipa = this.s1[entry.s1]![n]!;
        return ipa === null ? null : this.s2[entry.s2]![ipa % PAGES]!;
      }
      default:
        return null;
    }
  }
}

/** A guest that changes what its devices may do, in step with the model. */
class Player {
  readonly rig: Rig;
  readonly model = new Model();
  readonly rnd: Random;
  readonly plugged = new Map<readonly number[], () => void>();
  reached = 0;

  constructor(profile: 'arch' | 'qemu-11.1', seed: number) {
    this.rig = new Rig({ properties: { profile } });
    this.rnd = new Random(seed);
    const { g } = this.rig;
    g.setUp(6, 3, 6);
    for (let s2 = 0; s2 < S2_SPACES; s2++) this.#identity(s2);
    for (const sids of DEVICES) this.plug(sids);
  }

  /** A stage 2 leaves the guest's own tables where they are. */
  #identity(s2: number): void {
    const { g } = this.rig;
    const l1 = this.l1(s2);
    g.put(l1 + 8, BigInt(l1 + 0x1000) | 3n);
    for (let i = 0; i < 16; i++) g.put(l1 + 0x1000 + 8 * i, BigInt(0x4000_0000 + i * 0x20_0000) | 0x4fdn);
    for (const page of [IN, DATA]) {
      const l3 = l1 + (page === IN ? 0x2000 : 0x3000);
      g.put(l1 + 0x1000 + 8 * ((page - 0x4000_0000) / 0x20_0000), BigInt(l3) | 3n);
    }
  }

  l1(s2: number): number {
    return S2_TABLES + s2 * 0x1_0000;
  }

  plug(sids: readonly number[]): void {
    const fn = this.rig.plug(sids);
    this.plugged.set(sids, () => fn.remove());
  }

  words(e: Entry): bigint[] {
    const { g } = this.rig;
    const s2 = (n: number) => [0n, 0x040c_0059_0000_0007n + BigInt(n), BigInt(this.l1(n))];
    switch (e.kind) {
      case 'invalid':
        return [0n, 0n, 0n, 0n];
      case 'abort':
        return [1n, 0n, 0n, 0n];
      case 'bypass':
        return [9n, 0n, 0n, 0n];
      case 's1':
        return [space(g, e.s1, 0x11 + e.s1).ste, 0n, BigInt(e.vmid), 0n];
      case 's2':
        return [0xdn, ...s2(e.s2)];
      case 'nested':
        return [space(g, e.s1, 0x11 + e.s1).ste | 4n, ...s2(e.s2)];
    }
  }

  entry(): Entry {
    const r = this.rnd;
    const s1 = r.below(S1_SPACES);
    const s2 = r.below(S2_SPACES);
    return r.pick<Entry>([
      INVALID,
      { kind: 'abort' },
      { kind: 'bypass' },
      { kind: 's1', s1, vmid: r.pick([0, 3]) },
      { kind: 's1', s1, vmid: r.pick([0, 3]) },
      { kind: 's2', s2 },
      { kind: 'nested', s1, s2 },
    ]);
  }

  /** Writes an entry; says so to the SMMU, or leaves that for later. */
  configure(): void {
    const sid = this.rnd.pick(DEVICES.flat());
    const e = this.rnd.chance(90) ? this.entry() : (this.model.written.get(sid) ?? INVALID);
    this.rig.g.ste(sid, ...this.words(e));
    this.model.written.set(sid, e);
    if (this.rnd.chance(85)) this.invalidate(sid);
  }

  invalidate(sid: number): void {
    const { g } = this.rig;
    const r = g.run(cfgiSte(sid), sync);
    if ((r & ILL) !== 0) this.skip();
    if (![...this.plugged.keys()].flat().includes(sid)) return;
    if (!this.model.on) return;
    const e = this.model.written.get(sid) ?? INVALID;
    if (e.kind === 'invalid') this.model.force.delete(sid);
    else this.model.force.set(sid, e);
  }

  /** A command that was refused is replaced, and the queue goes on. */
  skip(): void {
    const { g } = this.rig;
    g.put(CMDQ + 16 * (g.r(PAGE0.CMDQ_CONS.at) & 63), 0x46n, 0n);
    g.w(PAGE0.GERRORN.at, g.r(PAGE0.GERROR.at));
  }

  /** Changes one page of a first or second stage, and everything is forgotten. */
  map(): void {
    const { g } = this.rig;
    const r = this.rnd;
    const n = r.below(PAGES);
    if (r.chance(60)) {
      const k = r.below(S1_SPACES);
      const { tables } = space(g, k, 0x11 + k);
      const to = r.chance(25) ? null : k * PAGES + r.below(PAGES);
      this.model.s1[k]![n] = to;
      if (to === null) tables.unmap(IN + n * PAGE);
      else tables.map(IN + n * PAGE, DATA + to * PAGE);
    } else {
      const k = r.below(S2_SPACES);
      const to = r.chance(25) ? null : 64 + k * PAGES + r.below(PAGES);
      this.model.s2[k]![n] = to;
      const leaf = to === null ? 0n : BigInt(DATA + to * PAGE) | 0x4ffn;
      // Input page n, and every data page that a first stage has and that ends in n.
      g.put(this.l1(k) + 0x2000 + 8 * n, leaf);
      for (let i = n; i < S1_SPACES * PAGES; i += PAGES) g.put(this.l1(k) + 0x3000 + 8 * i, leaf);
    }
    g.run([0x30n, 0], sync);
  }

  /** A device leaves or comes back: its streams are configured anew. */
  hotPlug(): void {
    const sids = this.rnd.pick(DEVICES);
    const away = this.plugged.get(sids);
    for (const sid of sids) this.model.force.delete(sid);
    if (away === undefined) {
      this.plug(sids);
      return;
    }
    away();
    this.plugged.delete(sids);
  }

  toggle(): void {
    this.model.on = !this.model.on;
    this.rig.g.w(PAGE0.CR0.at, this.model.on ? 0xd : 0xc);
    this.model.force.clear();
  }

  access(): void {
    const { rig, rnd, model } = this;
    const sids = rnd.pick(DEVICES);
    if (!this.plugged.has(sids)) return;
    const sid = rnd.pick<number>(sids);
    const n = rnd.below(PAGES);
    const expected = model.reaches(sid, n);
    const page = expected === null ? 'ABORT' : expected < 0 ? IN + n * PAGE : DATA + expected * PAGE;
    const got = rig.dma(sid, IN + n * PAGE);
    if (got !== page) expect(got, `stream ${sid}, page ${n}, ${JSON.stringify(model.force.get(sid))}`).toBe(page);
    if (expected === null) this.#named(sid);
    else this.reached++;
  }

  /** What the guest hears names the stream whose access it was. */
  #named(sid: number): void {
    const { g } = this.rig;
    const prod = g.r(EVENTQ_PROD);
    const cons = g.r(EVENTQ_PROD + 4);
    if (prod === cons) return;
    const event = g.event(cons & 7)[0]!;
    if (event >> 32n !== BigInt(sid)) expect(Number(event >> 32n)).toBe(sid);
    g.w(EVENTQ_PROD + 4, prod);
  }

  act(): void {
    const what = this.rnd.below(100);
    if (what < 60) this.configure();
    else if (what < 90) this.map();
    else if (what < 96) this.hotPlug();
    else this.toggle();
  }
}

test.each(['qemu-11.1', 'arch'] as const)(
  `${ACCESSES} accesses of devices with 1 to 4 streams, each with an entry of its own, reach what their own entry says (%s)`,
  (profile) => {
    const p = new Player(profile, profile.length);
    for (let i = 0; i < 40; i++) p.act();
    for (let n = 0; n < ACCESSES; n++) {
      if (n % 12 === 0) p.act();
      p.access();
      p.rig.said.length = 0;
    }
    expect(p.reached).toBeGreaterThan(ACCESSES / 8);
    expect(p.reached).toBeLessThan(ACCESSES);
  },
  Math.max(60_000, ACCESSES),
);
