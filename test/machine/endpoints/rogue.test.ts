import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { WORK_STATUS } from '../../../devices/endpoints/descriptor.ts';
import { Vm } from '../../../src/machine/vm.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { DATA, EngineDriver, KINDS, RAM, rig } from './rig.ts';

type Op = { readonly op: 'dma' | 'remap'; readonly page: number } | { readonly op: 'wait'; readonly time: number };

interface Scenario {
  readonly ops: readonly Op[];
  readonly invalidate: number;
  readonly completion: number;
  readonly step: number;
  readonly flight: number;
}

const VA = 0x2000_0000;
const options = { ssidBits: 20, twoLevel: true };

for (const kind of KINDS) {
  const register = (m: ReturnType<typeof rig>, at: number) => m.unit.window.read(at, 4) >>> 0;

  /** A machine with a well-behaved engine at 02.0 whose page works, and a rogue at 03.0. */
  function two(o: Parameters<typeof rig>[1] = {}) {
    const m = rig(kind, { ...options, ...o });
    const good = new EngineDriver(m, 0x10);
    const rogue = new EngineDriver(m, 0x18, [7]);
    m.guest.map(0x10, -1, VA, DATA);
    m.guest.map(0x18, -1, VA, DATA + 0x1000);
    return { m, good, rogue, up: m.complex.link(rogue.slot)! };
  }

  describe(`a misbehaving endpoint behind a ${kind}`, () => {
    test('that completes twice, or with a tag nobody gave out, disturbs nobody', () => {
      const { m, good, rogue, up } = two();
      rogue.fill(VA);
      up.invalidateCompletion(1, 1);
      up.invalidateCompletion(0xffff_ffff | 0, 1);
      m.guest.unmap(0x10, -1, VA);
      m.guest.invalidate(0x10, -1, VA);
      expect(m.guest.sync()).toBe(true);
      expect(good.fill(VA)).toBe(WORK_STATUS.FAULT);
      m.guest.map(0x18, -1, VA + 0x1000, DATA);
      expect(rogue.fill(VA + 0x1000)).toBe(WORK_STATUS.SUCCESS);
    });

    test('that answers with the wrong tag has not answered: the sync waits and then fails, and the others go on', () => {
      const { m, good, rogue, up } = two({ timeout: 1000, latency: { invalidate: 1 } });
      rogue.fill(VA);
      m.vm.clock.settle();
      rogue.engine.fn.invalidate = (_pasid, itag) => {
        up.invalidateCompletion((2 ** ((itag + 1) % 32)) | 0, 1);
        return true;
      };
      m.guest.invalidate(0x18, -1, VA);
      expect(m.guest.sync()).toBe(false);
      m.vm.clock.advance(2000);
      m.vm.clock.settle();
      expect(m.guest.synced()).toBe(false);
      if (kind === 'smmuv3') expect((register(m, 0x9c) >>> 24) & 0x7f).toBe(3);
      else expect(register(m, 0x34) & 0x40).toBe(0x40);
      expect(good.fill(VA)).toBe(WORK_STATUS.SUCCESS);
    });

    test('that uses a PASID it was not given is stopped and reported, with its own id', () => {
      const { m, up } = two();
      const bytes = new Uint8Array(4);
      m.guest.faults();
      expect(up.read(99, VA, 0, ACCESS.READ, AT.UNTRANSLATED, bytes, 0, 4)).toBe(DMA.ABORT);
      expect(m.guest.faults()).toHaveLength(1);
    });

    test('that floods page requests fills a bounded queue; the rest is answered at once, and others are served', () => {
      const { m, good, rogue, up } = two();
      let answers = 0;
      rogue.engine.fn.pageResponse = () => void answers++;
      for (let i = 0; i < 5000; i++) up.pageRequest(7, VA + i * 4096, 0, ACCESS.WRITE, i & 511, true);
      const queued = m.guest.requests();
      expect(queued.length).toBeGreaterThan(0);
      expect(queued.length).toBeLessThanOrEqual(512);
      for (const q of queued) m.guest.respond(q, true);
      expect(answers).toBeGreaterThan(0);
      expect(good.fill(VA + 0x5000, NO_PASID, 1, true)).toBe(WORK_STATUS.NONE);
      const asked = m.guest.requests().filter((q) => q.sid === 0x10);
      expect(asked).toHaveLength(1);
      m.guest.map(0x10, -1, VA + 0x5000, DATA);
      m.guest.respond(asked[0]!, true);
      expect(good.status).toBe(WORK_STATUS.SUCCESS);
    });

    test("that invents translated addresses reaches the machine's own memory at most", () => {
      const { m, up } = two();
      const other = new Vm({
        ram: [{ base: RAM, bytes: 0x10_0000 }],
        beside: m.vm,
      });
      other.memory.pin(other.memory.userVa(RAM), 4096n, true);
      const { hpa } = other.memory;
      const bytes = new Uint8Array(4);
      const read = (at: number) =>
        up.read(NO_PASID, at | 0, (at / 2 ** 32) | 0, ACCESS.READ, AT.TRANSLATED, bytes, 0, 4);
      expect(read(hpa)).toBe(DMA.ABORT);
      expect(read(m.vm.hostMemory.allocate())).toBe(DMA.ABORT);
      expect(m.complex.forgeries).toBe(2);
    });

    test('that disappears with work, page requests and invalidations under way leaves a machine that goes on', () => {
      const { m, good, rogue } = two({ timeout: 1000, latency: { invalidate: 10, completion: 10 } });
      rogue.fill(VA);
      m.vm.clock.settle();
      rogue.fill(VA + 0x7000, 7, 1, true);
      const [asked] = m.guest.requests();
      m.guest.invalidate(0x18, -1, VA);
      m.guest.sync();
      m.complex.unplug(rogue.slot);
      m.guest.respond(asked!, true);
      m.vm.clock.settle();
      expect(good.fill(VA)).toBe(WORK_STATUS.SUCCESS);
    });

    test("isolation: 500,000 random requests, translated, untranslated and forged, reach only the machine's own memory", () => {
      let outside = 0;
      let inside = 0;
      const { m, rogue, up } = two({
        onAccess: (hpa) => {
          if (m.vm.memory.gpaOf(hpa) < 0) outside++;
          else inside++;
        },
      });
      m.vm.memory.pin(m.vm.memory.userVa(DATA), 4096n, true);
      const ram = m.vm.memory.hpa;
      const kernel = m.vm.hostMemory.allocate();
      const seeds = [
        VA,
        0x1000_0000,
        DATA,
        RAM,
        ram,
        kernel,
        0xfee0_0000,
        0x0809_0000,
        0,
        2 ** 39,
        2 ** 47,
        2 ** 52 - 4096,
      ];
      const pasids = [NO_PASID, NO_PASID, 7, 0, 8, 2 ** 20 - 1];
      const rids = [-1, -1, rogue.slot.stream, 0x4010, 0, 0xffff];
      const bytes = new Uint8Array(16);
      // A linear congruential generator: the same attack every time.
      let state = 12345;
      const next = (n: number) => {
        state = (Math.imul(state, 1103515245) + 12345) & 0x7fff_ffff;
        return (state >>> 8) % n;
      };
      for (let i = 0; i < 500_000; i++) {
        const at = seeds[next(seeds.length)]! + (next(4) === 0 ? next(2 ** 23) * 4096 : next(8) * 4096) + next(4096);
        up.forged = rids[next(rids.length)]!;
        const lo = at | 0;
        const hi = (at / 2 ** 32) | 0;
        const type = next(2) === 0 ? AT.UNTRANSLATED : AT.TRANSLATED;
        const pasid = pasids[next(pasids.length)]!;
        const n = 1 + next(16);
        if (next(16) === 0) up.translationRequest(pasid, lo, hi, 1 + next(3));
        else if (next(2) === 0) up.read(pasid, lo, hi, ACCESS.READ, type, bytes, 0, n);
        else up.write(pasid, lo, hi, ACCESS.WRITE, type, bytes, 0, n);
      }
      expect(outside).toBe(0);
      expect(inside).toBeGreaterThan(1000);
    });
  });

  describe(`${kind}: after the sync completes no access uses the old translation`, () => {
    const op = fc.oneof(
      fc.record({ op: fc.constant('dma' as const), page: fc.nat(2) }),
      fc.record({ op: fc.constant('remap' as const), page: fc.nat(2) }),
      fc.record({ op: fc.constant('wait' as const), time: fc.nat(120) }),
    );
    const time = fc.constantFrom(0, 0, 1, 17, 60);
    const scenario = fc.record({
      ops: fc.array(op, { maxLength: 25 }),
      invalidate: time,
      completion: time,
      step: time,
      flight: time,
    });

    /** @returns host pages that were written after they had been retired. */
    function run(s: Scenario, forgetful: boolean): number {
      const retired = new Set<number>();
      let late = 0;
      const m = rig(kind, {
        ...options,
        latency: { invalidate: s.invalidate, completion: s.completion },
        onAccess: (hpa, _bytes, write) => {
          const gpa = m.vm.memory.gpaOf(hpa);
          if (write && retired.has(gpa - (gpa % 4096))) late++;
        },
      });
      const d = new EngineDriver(m, 0x10, [], { timing: { clock: m.vm.clock, step: s.step, flight: s.flight } });
      m.vm.clock.settle();
      if (forgetful) {
        d.engine.fn.invalidate = (_pasid, itag) => {
          m.complex.link(d.slot)!.invalidateCompletion((2 ** itag) | 0, 1);
          return true;
        };
      }
      let fresh = DATA;
      const now: number[] = [];
      for (let page = 0; page < 3; page++) {
        m.guest.map(0x10, -1, VA + page * 4096, fresh);
        now.push(fresh);
        fresh += 4096;
      }
      let leaving: number[] = [];
      const look = () => {
        if (leaving.length === 0 || !m.guest.synced()) return;
        for (const gpa of leaving) retired.add(gpa);
        leaving = [];
      };
      const pass = (nanoseconds: number) => {
        for (let t = 0; t < nanoseconds; t++) {
          m.vm.clock.advance(1);
          look();
        }
      };
      for (const o of s.ops) {
        if (o.op === 'wait') pass(o.time);
        else if (o.op === 'dma') d.submit({ dstLo: VA + o.page * 4096, doneLo: 0 });
        else {
          // One at a time: the guest waits for its sync as drivers do.
          for (let i = 0; i < 100 && leaving.length > 0; i++) {
            m.vm.clock.advance(10);
            look();
          }
          m.guest.map(0x10, -1, VA + o.page * 4096, fresh);
          m.guest.invalidate(0x10, -1, VA + o.page * 4096);
          leaving.push(now[o.page]!);
          now[o.page] = fresh;
          fresh += 4096;
          m.guest.sync();
        }
        look();
      }
      pass(500);
      return late;
    }

    test('whatever the latencies and the interleaving', () => {
      fc.assert(
        fc.property(scenario, (s) => run(s, false) === 0),
        { numRuns: 40 },
      );
    });

    test('and a device that completes invalidations without dropping anything is found out', () => {
      const ops = [
        { op: 'dma' as const, page: 0 },
        { op: 'remap' as const, page: 0 },
        { op: 'dma' as const, page: 0 },
      ];
      const quick = { invalidate: 0, completion: 0, step: 0, flight: 0 };
      expect(run({ ops, ...quick }, true)).toBeGreaterThan(0);
      expect(run({ ops, ...quick }, false)).toBe(0);
    });
  });
}
