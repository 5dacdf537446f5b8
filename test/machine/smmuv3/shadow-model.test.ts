import { expect, test } from 'vitest';
import { ACCESS } from '../../../src/ports/dma.ts';
import { Random } from '../../../tools/oracle/random.ts';
import { CD, cfgiSte, nhAll, RAM, sync } from '../../devices/smmuv3/guest.ts';
import { type Said, ShadowHistory } from '../shadow-history.ts';
import { RIG_RAM, Rig } from './rig.ts';

const STEPS = Number(process.env.VIOMMU_SHADOW_STEPS ?? 400);
const SID = 8;
const OTHER = 16;
const VMID = 7;
/** RAM that comes and goes. */
const FAR = RAM + 0x1000_0000;
const FAR_BYTES = 0x40_0000;
const S2_L1 = 0x4060_0000;
const S1_ROOT = 0x4050_0000;
/** Where a nested guest's memory lies in its stage 2. */
const OFF = 0x1_0000_0000;
const REGION = 0x20_0000;
/** Pieces of 2 MiB that the guest uses, by their intermediate address. */
const REGIONS = [0x20_0000, 0x40_0000, 0x4020_0000, 0x7f_ffe0_0000 - 0x40_0000_0000];
/** Pages it uses in each. */
const PAGES = [0, 1, 7, 8, 255, 511];
const MODES = ['stage 2', 'nested'] as const;

/** A guest with one stage 2, two functions in it, and memory that is plugged while it runs. */
class Guest {
  readonly rig = new Rig();
  readonly nested: boolean;
  readonly history = new ShadowHistory(
    (gpa) => gpa < RAM + RIG_RAM || (this.unplug !== null && gpa >= FAR && gpa < FAR + FAR_BYTES),
  );
  readonly #entries: number[] = [];
  readonly #tables: number[] = [];
  readonly #leaf: Said[] = REGIONS.map(() => null);
  readonly #paged = REGIONS.map(() => true);
  readonly #pages = new Map<number, Said>();
  unplug: (() => void) | null = null;
  #next = S2_L1 + 0x1000;

  constructor(mode: (typeof MODES)[number]) {
    this.nested = mode === 'nested';
    const { rig } = this;
    const { g } = rig;
    for (const at of REGIONS) {
      const l2 = this.#below(S2_L1 + 8 * Math.floor(at / 2 ** 30));
      const entry = l2 + 8 * (Math.floor(at / REGION) % 512);
      this.#entries.push(entry);
      this.#tables.push(this.#below(entry));
    }
    // A stage 1 of 1 GiB blocks that changes nothing, in tables that stage 2 has at OFF + x.
    g.put(S2_L1 + 8 * 5, BigInt(RAM) | 0x4fdn);
    for (const at of REGIONS) {
      const block = Math.floor(at / 2 ** 30);
      g.put(S1_ROOT + 8 * block, (BigInt(block) << 30n) | 0x441n);
    }
    g.put(CD, 0x0011_6204_c000_0019n, BigInt(S1_ROOT + OFF));
    for (const sid of [SID, OTHER]) {
      rig.plug(sid);
      const s1 = this.nested ? BigInt(CD + OFF) | 0xfn : 0xdn;
      g.ste(sid, s1, 0n, 0x040c_0059_0000_0000n | BigInt(VMID), BigInt(S2_L1));
    }
    g.setUp(5);
    g.run(cfgiSte(SID), cfgiSte(OTHER), sync);
  }

  /** The table that an entry names, made when there is none. */
  #below(entry: number): number {
    const { g } = this.rig;
    if ((g.get(entry) & 1n) === 0n) {
      g.put(entry, BigInt(this.#next) | 3n);
      this.#next += 0x1000;
    }
    return Number(g.get(entry) & 0xf_ffff_ffff_f000n);
  }

  /** Changes a page; where there was a block, a table takes its place. */
  page(region: number, index: number, now: Said): void {
    const { g } = this.rig;
    if (!this.#paged[region]) {
      this.#paged[region] = true;
      g.put(this.#entries[region]!, BigInt(this.#tables[region]!) | 3n);
    }
    this.#pages.set(region * 512 + index, now);
    g.put(this.#tables[region]! + 8 * index, now === null ? 0n : BigInt(now.gpa) | 0x43fn | BigInt(now.perm << 6));
    this.#changed(region);
  }

  /** Puts a 2 MiB block in the place of a table, or takes the region away. */
  leaf(region: number, now: Said): void {
    this.#paged[region] = false;
    this.#leaf[region] = now;
    this.rig.g.put(this.#entries[region]!, now === null ? 0n : BigInt(now.gpa) | 0x43dn | BigInt(now.perm << 6));
    this.#changed(region);
  }

  #changed(region: number): void {
    for (const index of PAGES) {
      const leaf = this.#leaf[region]!;
      const now = this.#paged[region]
        ? (this.#pages.get(region * 512 + index) ?? null)
        : leaf && { gpa: leaf.gpa + index * 4096, perm: leaf.perm, large: true };
      this.history.changed(this.#number(region, index), now);
    }
  }

  #number(region: number, index: number): number {
    return REGIONS[region]! / 4096 + index;
  }

  /** TLBI_S2_IPA of `pages` pages, as a range where there is more than one; then what hangs on stage 2, and a SYNC. */
  invalidate(page: number, pages: number, vmid: number): void {
    const op = (BigInt(vmid) << 32n) | 0x2an;
    const num = BigInt(pages - 1) << 12n;
    if (pages === 1) this.rig.g.run([op, page * 4096], nhAll(vmid), sync);
    else this.rig.g.run([op | num, page * 4096 + 0x400], nhAll(vmid), sync);
    if (vmid !== VMID) return;
    for (const [r, at] of REGIONS.entries()) {
      const first = at / 4096;
      const meets = page < first + 512 && page + pages > first;
      for (const index of PAGES) {
        const n = this.#number(r, index);
        if (n >= page && n < page + pages) this.history.forget(n);
        else if (meets) this.history.forgetLarge(n);
      }
    }
  }

  /** @param all NSNH_ALL instead of S12_VMALL. */
  flush(all: boolean, vmid: number): void {
    this.rig.g.run(all ? [0x30, 0] : [(BigInt(vmid) << 32n) | 0x28n, 0], sync);
    if (!all && vmid !== VMID) return;
    for (const [r] of REGIONS.entries()) for (const index of PAGES) this.history.forget(this.#number(r, index));
  }

  access(region: number, index: number, offset: number, access: number, sid: number): void {
    const page = this.#number(region, index);
    const got = this.rig.dma(sid, page * 4096 + offset, access);
    expect(this.history.judge(page, offset, access, got)).toBe('');
  }

  plug(): void {
    if (this.unplug === null) this.unplug = this.rig.vm.addRam(FAR, FAR_BYTES);
    else {
      this.unplug();
      this.unplug = null;
    }
  }
}

test.each(MODES)(
  'whatever a guest does to its stage 2 and what it invalidates, an access sees what it said since (%s)',
  (mode) => {
    for (let seed = 1; seed <= 4; seed++) {
      const random = new Random(seed * 7919 + mode.length);
      const pick = (n: number): number => random.below(n);
      const g = new Guest(mode);
      const target = (align: number): Said => {
        const far = pick(4) === 0;
        const base = far ? FAR : RAM + 0x200_0000;
        const room = far ? FAR_BYTES + 2 * align : 0x180_0000;
        return { gpa: base + pick(room / align) * align, perm: 1 + pick(3) };
      };
      let region = 0;
      let index = 0;
      for (let step = 0; step < STEPS; step++) {
        // What was touched last is touched again more often than not: caches hold it.
        if (random.chance(30)) region = pick(REGIONS.length);
        if (random.chance(30)) index = random.pick(PAGES);
        const page = REGIONS[region]! / 4096 + index;
        const vmid = pick(5) === 0 ? VMID + 2 : VMID;
        const what = pick(20);
        if (what < 4) g.page(region, index, pick(4) === 0 ? null : target(4096));
        else if (what < 5) g.leaf(region, pick(4) === 0 ? null : target(REGION));
        else if (what < 8) g.invalidate(page, [1, 1, 1, 2, 8, 32][pick(6)]!, vmid);
        else if (what < 9) g.flush(pick(2) === 0, vmid);
        else if (what < 10 && pick(4) === 0) g.plug();
        else g.access(region, index, 8 * pick(512), pick(2) === 0 ? ACCESS.READ : ACCESS.WRITE, pick(2) ? SID : OTHER);
      }
    }
  },
);
