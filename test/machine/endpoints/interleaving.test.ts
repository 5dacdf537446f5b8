import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DATA, EngineDriver, KINDS, type Kind, type Machine, rig } from './rig.ts';

const FUNCTIONS = [0x10, 0x18] as const;
const VAS = [0x2000_0000, 0x2000_1000, 0x2020_0000] as const;
const CANARY = 0x0bad_cafe;
const ENOUGH = 10_000;

const which = { fn: fc.nat(FUNCTIONS.length - 1), va: fc.nat(VAS.length - 1) };
const step = fc.oneof(
  { weight: 5, arbitrary: fc.record({ op: fc.constant('dma' as const), ...which }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('map' as const), ...which }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('unmap' as const), ...which }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('sync' as const) }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('wait' as const), time: fc.integer({ min: 1, max: 250 }) }) },
);
const latency = fc.record({
  invalidate: fc.constantFrom(0, 1, 40, 200),
  completion: fc.constantFrom(0, 1, 70),
  step: fc.constantFrom(0, 30, 150),
  flight: fc.constantFrom(0, 10, 300),
});

/** What a guest knows of its mappings, and what it may rely on. */
class Guest {
  readonly #m: Machine;
  readonly #engines: readonly EngineDriver[];
  readonly #device: boolean;
  /** Page behind (function, address); absent: none. */
  readonly #mapped = new Map<string, number>();
  /** Pages whose mapping is gone, not yet invalidated, by (function, address). */
  #queued = new Map<string, number>();
  #syncing = new Map<string, number>();
  /** Pages no device may touch any more. */
  readonly #free: number[] = [];
  #nextPage = DATA + 0x200_0000;
  #pattern = 1;

  constructor(m: Machine, engines: readonly EngineDriver[], device: boolean) {
    this.#m = m;
    this.#engines = engines;
    this.#device = device;
  }

  #word(page: number): number {
    this.#m.vm.memory.guest.load32(page);
    return this.#m.vm.memory.guest.lo >>> 0;
  }

  dma(fn: number, va: number): void {
    this.#engines[fn]!.submit({ dstLo: VAS[va]!, pattern: this.#pattern++ });
  }

  map(fn: number, va: number): void {
    const key = `${fn},${va}`;
    // Break before make: the old translation must be gone everywhere first.
    if (this.#mapped.has(key) || this.#queued.has(key) || this.#syncing.has(key)) return;
    const page = this.#nextPage;
    this.#nextPage += 4096;
    this.#m.guest.map(FUNCTIONS[fn]!, -1, VAS[va]!, page);
    this.#mapped.set(key, page);
  }

  unmap(fn: number, va: number): void {
    const key = `${fn},${va}`;
    const page = this.#mapped.get(key);
    if (page === undefined) return;
    this.#mapped.delete(key);
    this.#m.guest.unmap(FUNCTIONS[fn]!, -1, VAS[va]!);
    this.#queued.set(key, page);
  }

  sync(): void {
    if (this.#queued.size === 0 || this.#syncing.size > 0) return;
    this.#syncing = this.#queued;
    this.#queued = new Map();
    for (const key of this.#syncing.keys()) {
      const [fn, va] = key.split(',').map(Number);
      this.#m.guest.invalidate(FUNCTIONS[fn!]!, -1, VAS[va!]!, this.#device);
    }
    this.#m.guest.sync();
  }

  /** The pages of a completed sync are free: the guest uses them for something else, and nobody may spoil that. */
  look(): void {
    if (this.#syncing.size > 0 && this.#m.guest.synced()) {
      for (const page of this.#syncing.values()) {
        this.#m.vm.memory.guest.store32(page, CANARY);
        this.#free.push(page);
      }
      this.#syncing = new Map();
    }
    for (const page of this.#free) {
      if (this.#word(page) !== CANARY)
        throw new Error(`a device wrote ${this.#word(page).toString(16)} into freed memory`);
    }
  }

  get freed(): number {
    return this.#free.length;
  }
}

let freed = 0;

function property(kind: Kind, device: boolean) {
  return fc.property(latency, fc.array(step, { minLength: 40, maxLength: 80, size: 'max' }), (l, steps) => {
    const m = rig(kind, { ssidBits: 4, latency: { invalidate: l.invalidate, completion: l.completion } });
    const timing = { clock: m.vm.clock, step: l.step, flight: l.flight };
    const options = l.step + l.flight === 0 ? {} : { timing };
    const engines = FUNCTIONS.map((devfn) => new EngineDriver(m, devfn, [], options));
    m.vm.clock.advance(ENOUGH);
    const guest = new Guest(m, engines, device);
    for (const fn of FUNCTIONS.keys()) for (const va of VAS.keys()) guest.map(fn, va);
    for (const s of steps) {
      if (s.op === 'sync') guest.sync();
      else if (s.op === 'wait') {
        for (let left = s.time; left > 0; left -= 25) {
          m.vm.clock.advance(Math.min(25, left));
          guest.look();
        }
      } else guest[s.op](s.fn, s.va);
      guest.look();
    }
    guest.sync();
    for (let n = 0; n < 40; n++) {
      m.vm.clock.advance(ENOUGH / 40);
      guest.look();
    }
    freed += guest.freed;
  });
}

describe.each(KINDS)('behind a %s, whatever takes how long', (kind) => {
  test('after a sync has completed, no access uses a translation invalidated before it', () => {
    freed = 0;
    fc.assert(property(kind, true), { numRuns: 15 });
    expect(freed).toBeGreaterThan(40);
  });
});

test('without invalidations of the device the same check finds a stale access', () => {
  const found = fc.check(property('smmuv3', false), { numRuns: 200, endOnFailure: true });
  expect(found.failed).toBe(true);
  expect(String(found.errorInstance)).toMatch(/into freed memory/);
});
