import { expect, test } from 'vitest';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { ACCESS, NO_PASID } from '../../../src/ports/dma.ts';
import { PAGE } from '../../../src/spec/vtd/registers.ts';
import { Random } from '../../../tools/oracle/random.ts';
import { Rig } from './rig.ts';

/** Accesses per mode and profile; the environment asks for more. */
const ACCESSES = Number(process.env.VIOMMU_STREAM_ACCESSES ?? 6_000);
/** Requester ids of the functions. */
const FUNCTIONS = [[0x08], [0x10, 0x18], [0x20, 0x21, 0x2a], [0x30, 0x38, 0x40, 0x48]] as const;
const RIDS: readonly number[] = FUNCTIONS.flat();
const PAGES = 8;
const PAGE_BYTES = 0x1000;
/** Where input pages lie, and what they reach. */
const IN = 0x140_0000;
const DATA = 0x150_0000;
const SPACES = 4;
const ROOT = 0x70_0000;
const CONTEXTS = 0x70_1000;
const DIRECTORIES = 0x71_0000;
const PASID_TABLES = 0x73_0000;
const PASID = 3;

type Kind = 'absent' | 'first' | 'second' | 'pass';

/** What an entry says, as the guest that wrote it understands it. */
interface Entry {
  readonly kind: Kind;
  readonly space: number;
  readonly did: number;
}

const ABSENT: Entry = { kind: 'absent', space: 0, did: 0 };

/** The model: which page an access reaches, by sets of pages and by nothing that looks like a table. */
class Model {
  readonly first = emptySpaces();
  readonly second = emptySpaces();
  /** By `keyOf`. */
  readonly written = new Map<number, Entry>();
  /** What is in force; absent: the entry is read on the next use. */
  readonly force = new Map<number, Entry>();
  on = true;

  entry(key: number): Entry {
    return this.written.get(key) ?? ABSENT;
  }

  /** @param n index of the input page. @returns number of the data page reached, -1 - n: the input page itself, or null. */
  reaches(rid: number, pasid: number, n: number): number | null {
    if (!this.on) return pasid === NO_PASID ? -1 - n : null;
    const key = keyOf(rid, pasid);
    let entry = this.force.get(key);
    if (entry === undefined) {
      entry = this.entry(key);
      if (entry.kind !== 'absent') this.force.set(key, entry);
    }
    if (entry.kind === 'pass') return -1 - n;
    if (entry.kind === 'first') return this.first[entry.space]![n]!;
    return entry.kind === 'second' ? this.second[entry.space]![n]! : null;
  }
}

function emptySpaces(): (number | null)[][] {
  return Array.from({ length: SPACES }, () => new Array<number | null>(PAGES).fill(null));
}

function keyOf(rid: number, pasid: number): number {
  return rid * 16 + (pasid === NO_PASID ? 0 : pasid);
}

/** A guest that changes what its functions may do, in step with the model. */
class Player {
  readonly rig: Rig;
  readonly model = new Model();
  readonly rnd: Random;
  readonly scalable: boolean;
  readonly plugged = new Map<readonly number[], () => void>();
  readonly roots: { first: number; second: number }[] = [];
  readonly records: number;
  /** The unit has first and second stages side by side. */
  readonly both: boolean;
  reached = 0;

  constructor(scalable: boolean, profile: 'arch' | 'qemu-11.1', seed: number) {
    const props = scalable ? { scalableMode: true, fsts: true, pasidBits: 8 } : {};
    this.scalable = scalable;
    this.both = profile === 'arch';
    this.rig = new Rig({ props: { profile, ...props } });
    this.rnd = new Random(seed);
    const { g } = this.rig;
    this.records = Number((g.r64(PAGE.CAP.at) >> 40n) & 0xffn) + 1;
    for (let i = 0; i < SPACES; i++) this.roots.push({ first: this.rig.page(), second: this.rig.page() });
    g.store(ROOT, BigInt(CONTEXTS) | 1n, 0n);
    for (const sids of FUNCTIONS) this.plug(sids);
    g.queueOn(scalable);
    g.translateOn(BigInt(ROOT) | (scalable ? 0x400n : 0n));
  }

  plug(rids: readonly number[]): void {
    const fn = this.rig.units[0]!.addFunction(rids, rids.map(hostRid), { name: `dev${rids[0]}`, maxPasids: 256 });
    this.plugged.set(rids, () => fn.remove());
  }

  /** Writes the context entry of a requester id, or one PASID entry of the table that is its own. */
  write(rid: number, pasid: number, e: Entry): void {
    const { g } = this.rig;
    const root = this.roots[e.space]!;
    const did = BigInt(e.did);
    if (!this.scalable) {
      const words = {
        absent: [0n, 0n],
        first: [0n, 0n],
        second: [BigInt(root.second) | 1n, (did << 8n) | 2n],
        pass: [9n, (did << 8n) | 2n],
      };
      g.store(CONTEXTS + 16 * rid, ...words[e.kind]);
      return;
    }
    const at = RIDS.indexOf(rid) * 0x1000;
    g.store(CONTEXTS + 32 * rid, BigInt(DIRECTORIES + at) | 9n, 0n, 0n, 0n);
    g.store(DIRECTORIES + at, BigInt(PASID_TABLES + at) | 1n);
    const words = {
      absent: [0n, 0n, 0n],
      first: [0x49n, did, BigInt(root.first)],
      second: [BigInt(root.second) | 0x89n, did, 0n],
      pass: [0x109n, did, 0n],
    };
    g.store(PASID_TABLES + at + 64 * (pasid === NO_PASID ? 0 : pasid), ...words[e.kind]);
  }

  entry(): Entry {
    const r = this.rnd;
    const space = r.below(SPACES);
    const kind = r.pick<Kind>(
      !this.scalable
        ? ['absent', 'second', 'second', 'pass']
        : this.both
          ? ['absent', 'first', 'first', 'second', 'pass']
          : ['absent', 'first', 'first', 'pass'],
    );
    const did = kind === 'first' ? 5 + space : kind === 'second' ? 9 + space : 1;
    return kind === 'absent' ? ABSENT : { kind, space, did };
  }

  /** Writes an entry; says so to the unit, or leaves that for later. */
  configure(): void {
    const rid = this.rnd.pick(RIDS);
    const pasid = this.scalable && this.rnd.chance(40) ? PASID : NO_PASID;
    const key = keyOf(rid, pasid);
    const e = this.rnd.chance(90) ? this.entry() : this.model.entry(key);
    this.write(rid, pasid, e);
    this.model.written.set(key, e);
    if (this.rnd.chance(85)) this.invalidate(rid, pasid);
  }

  invalidate(rid: number, pasid: number): void {
    const { model, rig } = this;
    const key = keyOf(rid, pasid);
    const old = model.force.get(key);
    if (!this.scalable || this.rnd.chance(50)) {
      rig.g.submit(0x31n | (BigInt(rid) << 32n));
      if (model.on) for (const p of [NO_PASID, PASID]) this.#read(keyOf(rid, p));
      return;
    }
    // One PASID of one domain: it is that of every function.
    const did = old?.did ?? model.entry(key).did;
    const index = pasid === NO_PASID ? 0 : pasid;
    rig.g.submit(0x17n | (BigInt(did) << 16n) | (BigInt(index) << 32n));
    if (!model.on) return;
    for (const r of [...this.plugged.keys()].flat()) {
      const k = keyOf(r, pasid);
      if (model.force.get(k)?.did === did) this.#read(k);
      else if (!model.force.has(k) && model.entry(k).did === did) this.#read(k, true);
    }
  }

  /** @param captured the unit takes it in though it was not in force. */
  #read(key: number, captured = false): void {
    const { model } = this;
    const e = model.entry(key);
    if (e.kind === 'absent') model.force.delete(key);
    else if (captured || model.force.has(key)) model.force.set(key, e);
  }

  /** Changes one page of a first or second stage, and everything is forgotten. */
  map(): void {
    const { rig, rnd, model } = this;
    const n = rnd.below(PAGES);
    const space = rnd.below(SPACES);
    const first = this.scalable && rnd.chance(50);
    const to = rnd.chance(25) ? null : (first ? 0 : SPACES * PAGES) + space * PAGES + rnd.below(PAGES);
    (first ? model.first : model.second)[space]![n] = to;
    const flags = first ? 7n : 3n;
    const root = this.roots[space]![first ? 'first' : 'second'];
    // Four levels for the first stage, three for the second.
    const at = IN + n * PAGE_BYTES;
    const leaf = to === null ? 0n : flags;
    if (first) rig.g.map(root, at, to === null ? 0 : DATA + to * PAGE_BYTES, flags, rig.pools[0]!, leaf);
    else this.#mapSecond(root, at, to === null ? 0n : BigInt(DATA + to * PAGE_BYTES) | leaf);
    rig.g.submit(0x12n);
  }

  #mapSecond(root: number, at: number, leaf: bigint): void {
    const { g } = this.rig;
    let table = root;
    for (const level of this.levels) {
      const entry = table + 8 * (Math.floor(at / 2 ** (12 + 9 * level)) % 512);
      if (g.load(entry) === 0n) g.store(entry, BigInt(this.rig.page()) | 3n);
      table = Number(g.load(entry) & ~0xfffn);
    }
    g.store(table + 8 * (Math.floor(at / PAGE_BYTES) % 512), leaf);
  }

  /** Context entries and PASID entries here have AW 2: four levels. */
  readonly levels = [3, 2, 1];

  /** A function leaves or comes back: its requester ids are configured anew. */
  hotPlug(): void {
    const rids = this.rnd.pick(FUNCTIONS);
    const away = this.plugged.get(rids);
    for (const rid of rids) for (const p of [NO_PASID, PASID]) this.model.force.delete(keyOf(rid, p));
    if (away === undefined) {
      this.plug(rids);
      return;
    }
    away();
    this.plugged.delete(rids);
  }

  toggle(): void {
    const { model, rig } = this;
    model.on = !model.on;
    rig.g.w32(PAGE.GCMD.at, (rig.g.r32(PAGE.GSTS.at) & 0x16ff_ffff) | (model.on ? 0x8000_0000 : 0));
    model.force.clear();
  }

  access(): void {
    const { rig, rnd, model } = this;
    const rids = rnd.pick(FUNCTIONS);
    if (!this.plugged.has(rids)) return;
    const rid = rnd.pick<number>(rids);
    const pasid = this.scalable && rnd.chance(40) ? PASID : NO_PASID;
    const n = rnd.below(PAGES);
    const expected = model.reaches(rid, pasid, n);
    const page = expected === null ? 'ABORT' : expected < 0 ? IN + n * PAGE_BYTES : DATA + expected * PAGE_BYTES;
    const got = rig.dma(rid, IN + n * PAGE_BYTES, ACCESS.WRITE, pasid);
    if (got !== page) {
      expect(
        got,
        `requester ${rid}, PASID ${pasid}, page ${n}, ${JSON.stringify(model.force.get(keyOf(rid, pasid)))}`,
      ).toBe(page);
    }
    if (expected === null) {
      if (model.on) this.#named(rid);
    } else this.reached++;
  }

  /** The guest hears of an aborted access, under the requester id whose it was. */
  #named(rid: number): void {
    const { g } = this.rig;
    let sid = -1;
    for (let i = 0; i < this.records; i++) {
      const at = PAGE.FRCD_LO.at + 16 * i;
      if (g.r32(at + 12) >>> 31 === 0) continue;
      sid = g.r32(at + 8) & 0xffff;
      g.w32(at + 12, 0x8000_0000);
    }
    if (sid !== rid) expect(sid).toBe(rid);
  }

  act(): void {
    const what = this.rnd.below(100);
    if (what < 60) this.configure();
    else if (what < 90) this.map();
    else if (what < 96) this.hotPlug();
    else this.toggle();
  }
}

test.each([
  ['legacy', 'qemu-11.1'],
  ['legacy', 'arch'],
  ['scalable', 'qemu-11.1'],
  ['scalable', 'arch'],
] as const)(
  `${ACCESSES} accesses of functions with 1 to 4 requester ids, each with entries of its own, reach what those say (%s, %s)`,
  (mode, profile) => {
    const p = new Player(mode === 'scalable', profile, mode.length + profile.length);
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
