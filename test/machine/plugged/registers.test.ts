import { describe, expect, test } from 'vitest';
import { encodeDescriptor, WORK_OP } from '../../../devices/endpoints/descriptor.ts';
import { DmaEngine, ENGINE } from '../../../devices/endpoints/dma-engine.ts';
import type { WorkTiming } from '../../../devices/endpoints/work-unit.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { Naive } from './naive.ts';
import { DATA, KINDS, PCI, Rig } from './rig.ts';

const BAR = (n: number) => PCI + 0x10_0000 + n * 0x1000;

/** An engine whose BAR the guest has placed, with a ring in a page of its own and every BAR mapped where it is. */
class Engine {
  readonly engine: DmaEngine;
  readonly bar: number;
  readonly #rig: Rig;
  readonly #ring: number;

  constructor(rig: Rig, n: number, timing?: WorkTiming) {
    this.#rig = rig;
    this.engine = new DmaEngine({ ats: null, pri: null, ...(timing === undefined ? {} : { timing }) });
    const devfn = 8 * (n + 1);
    this.bar = BAR(n);
    this.#ring = DATA + n * 0x1_0000;
    rig.machine.plug(this.engine.fn, devfn);
    rig.config(0, devfn, 0x10, 4, this.bar);
    rig.config(0, devfn, 0x14, 4, 0);
    rig.config(0, devfn, 4, 2, 6);
    rig.guest.function(devfn, [NO_PASID]);
    for (let page = 0; page < 4; page++) {
      rig.guest.map(devfn, NO_PASID, this.#ring + page * 4096, this.#ring + page * 4096);
    }
    for (let k = 0; k < 12; k++) rig.guest.map(devfn, NO_PASID, BAR(k), BAR(k));
    this.write(ENGINE.RING_LOW, this.#ring);
    this.write(ENGINE.RING_LOG2, 8);
    this.write(ENGINE.CONTROL, 1);
  }

  /** All 256 descriptors of the ring write `pattern` to `to`. */
  aim(to: number, pattern: (i: number) => number = (i) => i): void {
    const { guest } = this.#rig.machine.vm.memory;
    for (let i = 0; i < 256; i++) {
      const d = { op: WORK_OP.FILL, pattern: pattern(i), bytes: 4, dstLo: to, dstHi: 0, doneLo: 0, pasid: NO_PASID };
      guest.writeBytes(this.#ring + 64 * i, new Uint8Array(encodeDescriptor(d).buffer));
    }
  }

  write(at: number, value: number): void {
    this.#rig.bars.write(this.bar - PCI + at, 4, value, 0);
  }
  read(at: number): number {
    return this.#rig.bars.read(this.bar - PCI + at, 4);
  }
}

for (const kind of KINDS) {
  describe(`DMA into registers behind a ${kind}`, () => {
    test('an engine whose descriptors write its own TAIL comes to the end of its ring, and goes on when the processor says so', () => {
      const rig = new Rig(kind);
      const e = new Engine(rig, 0);
      e.aim(e.bar + ENGINE.TAIL);
      e.write(ENGINE.TAIL, 3);
      expect([e.read(ENGINE.HEAD), e.read(ENGINE.TAIL), e.read(ENGINE.ERRORS)]).toEqual([3, 3, 3]);
      e.write(ENGINE.TAIL, 5);
      expect(e.read(ENGINE.HEAD)).toBe(5);
      expect(rig.errors).toEqual([]);
    });

    test('an engine cannot reset itself in the middle of a descriptor', () => {
      const rig = new Rig(kind);
      const e = new Engine(rig, 0);
      e.aim(e.bar + ENGINE.CONTROL, () => 2);
      e.write(ENGINE.TAIL, 2);
      expect([e.read(ENGINE.HEAD), e.read(ENGINE.CONTROL), e.read(ENGINE.ERRORS)]).toEqual([2, 1, 2]);
      expect(rig.errors).toEqual([]);
    });

    test('the same for work that goes on from the clock', () => {
      const rig = new Rig(kind);
      const { clock } = rig.machine.vm;
      const e = new Engine(rig, 0, { clock, step: 10, flight: 10 });
      e.aim(e.bar + ENGINE.TAIL, () => 9);
      e.write(ENGINE.TAIL, 2);
      clock.advance(1000);
      expect([e.read(ENGINE.HEAD), e.read(ENGINE.ERRORS)]).toEqual([2, 2]);
      e.aim(e.bar + ENGINE.CONTROL, () => 2);
      e.write(ENGINE.TAIL, 4);
      clock.advance(1000);
      expect([e.read(ENGINE.HEAD), e.read(ENGINE.ERRORS), e.read(ENGINE.CONTROL)]).toEqual([4, 4, 1]);
      expect(rig.errors).toEqual([]);
    });

    test('two engines that start each other both come to an end', () => {
      const rig = new Rig(kind);
      const [a, b] = [new Engine(rig, 0), new Engine(rig, 1)];
      a.aim(b.bar + ENGINE.TAIL, (i) => (i + 1) & 0xff);
      b.aim(a.bar + ENGINE.TAIL, (i) => (i + 7) & 0xff);
      a.write(ENGINE.TAIL, 200);
      expect([a.read(ENGINE.HEAD), a.read(ENGINE.ERRORS)]).toEqual([200, 0]);
      // The other one was started by each of them, and found its own target at work.
      expect([b.read(ENGINE.HEAD), b.read(ENGINE.ERRORS)]).toEqual([200, 200]);
      expect(rig.errors).toEqual([]);
    });

    test('an engine may reset another one, which then starts anew', () => {
      const rig = new Rig(kind);
      const [a, b] = [new Engine(rig, 0), new Engine(rig, 1)];
      b.aim(a.bar + ENGINE.PASID);
      b.write(ENGINE.TAIL, 3);
      a.aim(b.bar + ENGINE.CONTROL, () => 2);
      a.write(ENGINE.TAIL, 1);
      expect([a.read(ENGINE.ERRORS), b.read(ENGINE.HEAD), b.read(ENGINE.CONTROL)]).toEqual([0, 0, 0]);
    });

    test('functions that know nothing of loops are reached once at a time, and their work has an end', () => {
      const rig = new Rig(kind);
      const bases = Array.from({ length: 12 }, (_, i) => BAR(i));
      const fns = bases.map((base) => new Naive(base, bases));
      fns.forEach((fn, i) => {
        const devfn = 8 * (i + 1);
        rig.machine.plug(fn, devfn);
        rig.config(0, devfn, 4, 2, 6);
        rig.guest.function(devfn, [NO_PASID]);
        for (const base of bases) rig.guest.map(devfn, NO_PASID, base, base);
      });
      rig.bars.write(BAR(0) - PCI, 4, 1, 0);
      expect(fns.map((f) => f.deepest > 1)).toEqual(fns.map(() => false));
      const all = fns.reduce((n, f) => n + f.writes, 0);
      expect(all).toBeGreaterThan(1000);
      expect(all).toBeLessThan(10_000);
      // Nothing of it lasts: the next access finds everybody at rest.
      rig.bars.write(BAR(3) - PCI, 4, 1, 0);
      expect(fns[3]!.writes).toBeGreaterThan(1);
      expect(rig.errors).toEqual([]);
    });
  });
}
