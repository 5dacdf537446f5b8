import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Bridge } from '../../../bus/bridge.ts';
import type { Shell } from '../../../devices/endpoints/shell.ts';
import { DATA, KINDS, type Kind, probe, Rig, VA } from './rig.ts';

/** StreamIDs of functions 0, 1, … behind the port. */
const BUS = 0x200;
/** One that nobody sends under: its entry is empty. */
const NOBODY = 0x3ff;

/** A root port without ACS; its functions come while the guest runs, when it has invalidated everything there was already. */
class Group {
  readonly rig: Rig;
  readonly port = new Bridge({ kind: 'root', hotplug: true, acs: false });
  readonly functions: Shell[] = [];
  readonly #away: (() => void)[] = [];
  readonly #kind: Kind;

  constructor(kind: Kind, linuxOnly: boolean, functions = 3) {
    this.#kind = kind;
    this.rig = new Rig(kind, { linuxOnly });
    this.rig.machine.plug(this.port, 0x10);
    this.rig.number(0, 0x10, 2);
    void this.rig.guest;
    for (let i = 0; i < functions; i++) this.plug(i);
  }

  plug(i: number): void {
    const fn = probe({ name: `f${i}` });
    this.#away[i] = this.rig.plug(fn, i, this.port, 2);
    this.functions[i] = fn;
  }

  unplug(i: number): void {
    this.#away[i]!();
  }

  /** Gives function `i` tables of its own. @returns the page its VA is mapped to. */
  own(i: number, page: number): number {
    return this.rig.space(BUS + i, undefined, page)[0]!;
  }

  share(i: number, like: number): void {
    this.rig.guest.share(BUS + i, BUS + like);
  }

  /** The guest takes the entry of function `i` away. */
  clear(i: number): void {
    const { rig } = this;
    if (this.#kind === 'smmuv3') {
      rig.guest.share(BUS + i, NOBODY);
      return;
    }
    const { guest } = rig.machine.vm.memory;
    const roots = rig.iommu.read(0x20, 4) & ~0xfff;
    guest.load32(roots + 2 * 16);
    guest.store32((guest.lo & ~0xfff) + i * 32, 0);
    const other = i === 0 ? 1 : 0;
    rig.guest.share(BUS + other, BUS + other);
  }

  /** Which page each function's writes to VA arrive at; -1: none. */
  where(pages: readonly number[]): number[] {
    return this.functions.map((fn) => {
      const before = pages.map((pa) => this.rig.load(pa));
      this.rig.write(fn, (before.reduce((a, b) => Math.max(a, b), 0) + 1) | 0);
      return pages.findIndex((pa, k) => this.rig.load(pa) !== before[k]);
    });
  }

  /** What the unit says of the last command, which the guest then passes over as Linux does. @returns whether it was refused. */
  refused(): boolean {
    const { iommu, machine } = this.rig;
    const { guest } = machine.vm.memory;
    let refused = false;
    for (let i = 0; i < 64 && !this.rig.guest.synced(); i++) {
      if (this.#kind === 'smmuv3') {
        const cons = iommu.read(0x9c, 4);
        expect(cons >>> 24).toBe(1);
        const at = (iommu.read(0x90, 4) & ~0x1f) + (cons & 0xff) * 16;
        guest.store64(at, 0x46, 0);
        guest.store64(at + 8, 0, 0);
        iommu.write(0x64, 4, iommu.read(0x60, 4), 0);
      } else {
        expect(iommu.read(0x34, 4) & 0x10).toBe(0x10);
        const at = (iommu.read(0x90, 4) & ~0xfff) + iommu.read(0x80, 4);
        guest.store64(at, 5, 0);
        guest.store64(at + 8, 0, 0);
        iommu.write(0x34, 4, 0x10, 0);
      }
      refused = true;
    }
    expect(this.rig.guest.synced()).toBe(true);
    return refused;
  }

  /** The guest switches translation. */
  switch(on: boolean): void {
    if (this.#kind === 'smmuv3') this.rig.iommu.write(0x20, 4, on ? 0xf : 0xe, 0);
    else this.rig.iommu.write(0x18, 4, on ? 0x8400_0000 : 0x0400_0000, 0);
    while (this.rig.soon());
  }
}

describe.each(KINDS.flatMap((kind) => [false, true].map((only) => [kind, only] as const)))(
  'one isolation group behind a %s, linux-only: %s',
  (kind, only) => {
    test('the function that the guest has set up works, and its siblings are where it is', () => {
      const g = new Group(kind, only);
      const a = g.own(0, 0);
      expect(g.refused()).toBe(false);
      expect(g.where([a])).toEqual([0, 0, 0]);
      g.share(2, 0);
      g.share(1, 0);
      expect(g.refused()).toBe(false);
      expect(g.where([a])).toEqual([0, 0, 0]);
      expect(g.rig.guest.faults()).toEqual([]);
      expect(g.rig.errors).toEqual([]);
    });

    test('a sibling set up later with other tables is refused at its command, and nothing of the first one changes', () => {
      const g = new Group(kind, only);
      const a = g.own(0, 0);
      expect(g.refused()).toBe(false);
      const b = g.own(1, 1);
      expect(g.refused()).toBe(true);
      expect(g.where([a, b])).toEqual([0, 0, 0]);
      // Now it asks for what its group has.
      g.share(1, 0);
      expect(g.refused()).toBe(false);
      g.rig.guest.unmap(BUS, -1, VA);
      g.rig.guest.invalidate(BUS, -1, VA, false);
      expect(g.rig.guest.sync()).toBe(true);
      g.rig.guest.faults();
      expect(g.where([a, b])).toEqual([-1, -1, -1]);
      expect(g.rig.errors).toEqual([]);
    });

    test('one that is set up and changes its tables takes its group along, as a driver that moves one after another wants it', () => {
      const g = new Group(kind, only);
      const a = g.own(0, 0);
      g.share(1, 0);
      expect(g.where([a])).toEqual([0, 0, 0]);
      const b = g.own(1, 1);
      expect(g.refused()).toBe(false);
      expect(g.where([a, b])).toEqual([1, 1, 1]);
      g.share(0, 1);
      expect(g.refused()).toBe(false);
      expect(g.where([a, b])).toEqual([1, 1, 1]);
    });

    test('when the one goes that took the group along, the others are where their own entries say', () => {
      const g = new Group(kind, only, 2);
      const a = g.own(0, 0);
      g.share(1, 0);
      g.where([a]);
      const b = g.own(1, 1);
      expect(g.where([a, b])).toEqual([1, 1]);
      g.unplug(1);
      g.functions.pop();
      expect(g.where([a, b])).toEqual([0]);
      g.clear(1);
      g.plug(1);
      g.share(1, 0);
      expect(g.refused()).toBe(false);
      expect(g.where([a, b])).toEqual([0, 0]);
      expect(g.rig.guest.faults()).toEqual([]);
      expect(g.rig.errors).toEqual([]);
    });

    test('taking the entry of one away, or the function, leaves the others theirs', () => {
      const g = new Group(kind, only);
      const a = g.own(0, 0);
      for (const i of [1, 2]) g.share(i, 0);
      expect(g.where([a])).toEqual([0, 0, 0]);
      g.clear(1);
      expect(g.refused()).toBe(false);
      expect(g.where([a])).toEqual([0, 0, 0]);
      g.unplug(0);
      expect(g.where([a]).slice(1)).toEqual([0, 0]);
      g.rig.guest.invalidate(BUS, -1, VA, false);
      expect(g.rig.guest.sync()).toBe(true);
      // The last one that asked for it.
      g.clear(2);
      g.refused();
      expect(g.where([a]).slice(1)).toEqual([-1, -1]);
      expect(g.rig.errors).toEqual([]);
    });

    test('a function that comes into a group at work gets what the group has with its own entry', () => {
      const g = new Group(kind, only, 2);
      const a = g.own(0, 0);
      expect(g.where([a])).toEqual([0, 0]);
      g.plug(2);
      expect(g.where([a]).slice(0, 2)).toEqual([0, 0]);
      g.share(2, 0);
      expect(g.refused()).toBe(false);
      expect(g.where([a])).toEqual([0, 0, 0]);
      expect(g.rig.errors).toEqual([]);
    });

    test('translation is switched off and on for all of a group, whoever comes first', () => {
      const g = new Group(kind, only);
      const a = g.own(1, 0);
      expect(g.rig.reaches(g.functions[1]!, a)).toBe(true);
      for (let i = 0; i < 2; i++) {
        g.switch(false);
        // Guest-physical addresses now, and there is no memory at that one.
        expect(g.where([a])).toEqual([-1, -1, -1]);
        g.rig.guest.faults();
        g.switch(true);
        // The one that is set up asks first, where anybody asks.
        expect(g.rig.reaches(g.functions[1]!, a)).toBe(true);
        expect(g.where([a])).toEqual([0, 0, 0]);
        expect(g.rig.guest.faults()).toEqual([]);
      }
      expect(g.rig.errors).toEqual([]);
    });

    test('a group with one that was taken along is saved and loaded', () => {
      const g = new Group(kind, only);
      const a = g.own(0, 0);
      g.share(1, 0);
      g.where([a]);
      const b = g.own(1, 1);
      expect(g.where([a, b])).toEqual([1, 1, 1]);
      const state = g.rig.machine.save();
      g.rig.machine.load(JSON.parse(JSON.stringify(state)) as typeof state);
      const [first] = g.where([a, b]);
      expect(g.where([a, b])).toEqual([first, first, first]);
      expect(g.rig.errors).toEqual([]);
    });

    test('whatever the guest does with a group, all of it is in one place, and afterwards it can be set up as a whole', () => {
      const index = fc.nat(2);
      const step = fc.oneof(
        fc.record({ what: fc.constantFrom('own', 'clear', 'away', 'use'), i: index, k: fc.constant(0) }),
        fc.record({ what: fc.constant('share'), i: index, k: index }),
        fc.record({ what: fc.constantFrom('off', 'on', 'saved'), i: fc.constant(0), k: fc.constant(0) }),
      );
      fc.assert(
        fc.property(fc.array(step, { minLength: 3, maxLength: 16 }), (steps) => {
          const g = new Group(kind, only);
          const pages = [0, 1, 2, 3].map((page) => DATA + page * 4096);
          // Every function has an entry once, so that there is something to share.
          for (const i of [0, 1, 2]) g.own(i, i);
          g.refused();
          for (const { what, i, k } of steps) {
            if (what === 'own') g.own(i, i);
            else if (what === 'clear') g.clear(i);
            else if (what === 'share') g.share(i, k);
            else if (what === 'use') g.rig.write(g.functions[i]!, 7);
            else if (what === 'off' || what === 'on') g.switch(what === 'on');
            else if (what === 'saved') g.rig.machine.load(g.rig.machine.save());
            else {
              g.unplug(i);
              g.plug(i);
            }
            g.refused();
            const places = new Set(g.where(pages).filter((page) => page >= 0));
            expect(places.size).toBeLessThanOrEqual(1);
            g.rig.guest.faults();
          }
          g.switch(true);
          for (const i of [0, 1, 2]) g.clear(i);
          g.refused();
          g.own(0, 3);
          g.refused();
          for (const i of [1, 2]) g.share(i, 0);
          expect(g.refused()).toBe(false);
          g.where(pages);
          g.rig.guest.faults();
          expect(g.where(pages)).toEqual([3, 3, 3]);
          expect(g.rig.guest.faults()).toEqual([]);
          expect(g.rig.errors).toEqual([]);
        }),
        { numRuns: Number(process.env.VIOMMU_RUNS ?? 10) },
      );
    });
  },
);
