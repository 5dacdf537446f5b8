import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { MachineLimits } from '../../../src/lib/limits/machine-limits.ts';
import { guestRid } from '../../../src/lib/pci/rids.ts';
import { DMA } from '../../../src/ports/dma.ts';
import { EVENT } from '../../../src/spec/smmuv3/events.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { CD, cfgiSte, EVENTQ, NOWHERE, R, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, space } from './rig.ts';

/** CD.S set: a fault of stage 1 stalls. */
const STALLING_CD = 0x7204_c000_0019n;
const DATA = 0x4048_0000;
const EVENT_LOG2 = 3;

interface Record {
  readonly code: number;
  readonly sid: number;
  readonly stall: boolean;
  readonly stag: number;
  readonly input: number;
}

/** Functions 8 and 9, whose faults of stage 1 stall, and what became of their accesses. */
class Staller {
  readonly rig: Rig;
  readonly ended: { sid: number; token: number; outcome: number }[] = [];
  readonly spaces: ReturnType<typeof space>[];
  readonly functions;
  #read = 0;

  constructor(profile: 'qemu-11.1' | 'arch' = 'arch', canStall = true, limits: Partial<MachineLimits> = {}) {
    this.rig = new Rig({ properties: { profile, stall: true }, canStall: () => canStall, limits });
    const { rig } = this;
    this.functions = [8, 9].map((sid) => rig.plug(sid));
    this.spaces = [0, 1].map((n) => space(rig.g, n, 0x11 + n));
    rig.units[0]!.endpoints.to = {
      invalidate: () => false,
      pageResponse: () => {},
      resumed: (rid, token, outcome) => this.ended.push({ sid: guestRid(rid), token, outcome }),
    };
    rig.g.setUp(5, EVENT_LOG2);
    for (const n of [0, 1]) {
      rig.g.put(CD + 64 * n, (BigInt(0x11 + n) << 48n) | STALLING_CD);
      this.configure(8 + n);
    }
  }

  configure(sid: number, ste = this.spaces[sid - 8]!.ste): void {
    this.rig.g.ste(sid, ste);
    this.rig.g.run(cfgiSte(sid), sync);
  }

  /** @returns the token of an access that stalled, or what became of it. */
  dma(sid: number, iova: number): number | string {
    const r = this.rig.dma(sid, iova);
    return r === 'STALLED' ? this.rig.units[0]!.hardware.stallToken : r;
  }

  /** Records the guest has not read yet; reading them makes room. */
  records(): Record[] {
    const { g } = this.rig;
    const out: Record[] = [];
    const end = g.r(R.EVENTQ_PROD) & 15;
    for (; this.#read !== end; this.#read = (this.#read + 1) & 15) {
      const [w0, w1, input] = g.event(this.#read & 7) as [bigint, bigint, bigint];
      const stall = w1 >> 31n !== 0n && ((w1 >> 31n) & 1n) === 1n;
      const [code, sid] = [Number(w0 & 0xffn), Number(w0 >> 32n)];
      out.push({ code, sid, stall, stag: Number(w1 & 0xffffn), input: Number(input) });
    }
    g.w(R.EVENTQ_CONS, end);
    return out;
  }

  resume(sid: number, stag: number, retry: boolean): void {
    this.rig.g.run([(BigInt(sid) << 32n) | (retry ? 0x1044n : 0x2044n), stag], sync);
  }

  terminate(sid: number): void {
    this.configure(sid, 1n);
    this.rig.g.run([(BigInt(sid) << 32n) | 0x45n, 0n], sync);
  }

  eventQueue(on: boolean): void {
    const { g } = this.rig;
    const cr0 = g.r(PAGE0.CR0.at);
    g.w(PAGE0.CR0.at, on ? cr0 | 4 : cr0 & ~4);
  }
}

test.each(['qemu-11.1', 'arch'] as const)(
  'behind the limit of a machine an access that would stall is terminated with its event, and the others can be answered (%s)',
  (profile) => {
    const s = new Staller(profile, true, { stalls: 3 });
    const { vm } = s.rig;
    const answers = Array.from({ length: 5 }, (_, i) => s.dma(8 + (i & 1), NOWHERE + i * 4096));
    expect(answers.map((a) => typeof a)).toEqual(['number', 'number', 'number', 'string', 'string']);
    expect(vm.usage().stalls).toMatchObject({ used: 3, limit: 3 });
    const records = s.records();
    expect(records.map((r) => r.stall)).toEqual([true, true, true, false, false]);
    expect(records.map((r) => r.code)).toEqual(Array(5).fill(EVENT.F_TRANSLATION));
    for (const r of records.slice(0, 3)) s.resume(r.sid, r.stag, false);
    expect(s.ended.length).toBe(3);
    expect(vm.usage().stalls.used).toBe(0);
    expect(typeof s.dma(8, NOWHERE)).toBe('number');
  },
);

describe.each(['qemu-11.1', 'arch'] as const)('the record of a stall is never lost (%s)', (profile) => {
  test('it waits while the event queue is off', () => {
    const m = new Staller(profile);
    m.eventQueue(false);
    const token = m.dma(8, 0x6000);
    expect([typeof token, m.records()]).toEqual(['number', []]);
    m.eventQueue(true);
    expect(m.records()).toMatchObject([{ code: EVENT.F_TRANSLATION, sid: 8, stall: true, input: 0x6000 }]);
  });

  test('it waits while the queue is full, and no error or overflow tells of it', () => {
    const m = new Staller(profile);
    for (let n = 0; n < 12; n++) m.dma(8, 0x6000 + n * 0x1000);
    expect([m.rig.g.r(R.EVENTQ_PROD), m.rig.g.r(PAGE0.GERROR.at)]).toEqual([8, 0]);
    const seen = [...m.records(), ...m.records()];
    expect(seen.map((r) => r.input)).toEqual(Array.from({ length: 12 }, (_, n) => 0x6000 + n * 0x1000));
  });

  test('it waits while EVENTQ_ABT_ERR is active', () => {
    const m = new Staller(profile);
    const { g } = m.rig;
    m.eventQueue(false);
    g.w64(PAGE0.EVENTQ_BASE.at, BigInt(NOWHERE + EVENT_LOG2));
    m.eventQueue(true);
    m.dma(8, 0x6000);
    expect(g.r(PAGE0.GERROR.at)).toBe(4);
    m.dma(8, 0x7000);
    m.eventQueue(false);
    g.w64(PAGE0.EVENTQ_BASE.at, BigInt(EVENTQ + EVENT_LOG2));
    g.w(R.EVENTQ_PROD, 0);
    g.w(R.EVENTQ_CONS, 0);
    g.w(PAGE0.GERRORN.at, 4);
    m.eventQueue(true);
    expect(m.records()).toMatchObject([{ stall: true, input: 0x7000 }]);
  });
});

test('a stall that the guest has not heard of is retried when its page has come, and not recorded', () => {
  const m = new Staller();
  m.eventQueue(false);
  const token = m.dma(8, 0x6000);
  m.spaces[0]!.tables.map(0x6000, DATA);
  m.eventQueue(true);
  expect([m.ended, m.records()]).toEqual([[{ sid: 8, token, outcome: DMA.OK }], []]);
});

describe('everything of a stream that waits ends, also beyond IDR5.STALL_MAX and the room in the queue', () => {
  const MANY = 70;
  function many() {
    const m = new Staller();
    expect((m.rig.g.r(PAGE0.IDR5.at) >>> 16) & 0xffff).toBe(64);
    for (let n = 0; n < MANY; n++) m.dma(8, 0x10_0000 + n * 0x1000);
    const other = m.dma(9, 0x6000);
    return { m, other };
  }
  const aborted = (m: Staller) => m.ended.filter((e) => e.sid === 8 && e.outcome === DMA.ABORT).length;

  test('by CMD_STALL_TERM: no record of the stream is written after it, and other streams go on', () => {
    const { m, other } = many();
    m.terminate(8);
    expect(aborted(m)).toBe(MANY);
    const after = [...m.records().slice(8), ...m.records()];
    expect(after).toMatchObject([{ sid: 9, stall: true, input: 0x6000 }]);
    m.spaces[1]!.tables.map(0x6000, DATA);
    m.resume(9, after[0]!.stag, true);
    expect(m.ended.at(-1)).toEqual({ sid: 9, token: other, outcome: DMA.OK });
  });

  test('by SMMUEN=0, by a reset, and when the function leaves', () => {
    for (const end of [
      (m: Staller) => m.rig.g.w(PAGE0.CR0.at, 0xc),
      (m: Staller) => m.rig.units[0]!.device.reset(),
      (m: Staller) => m.functions[0]!.remove(),
    ]) {
      const { m } = many();
      end(m);
      expect(aborted(m)).toBe(MANY);
    }
  });
});

describe('S2S of the guest’s own entry decides whether a fault of its stage 2 stalls', () => {
  const L1 = 0x4072_0000;
  const L2 = 0x4072_1000;
  /** Stage 2 alone, 39 bits from level 1: 2 MiB at 0x40000000. */
  function own(s2s: bigint, s2r: bigint, canStall = true) {
    const m = new Staller('arch', canStall);
    const { g } = m.rig;
    g.put(L1 + 8, BigInt(L2) | 3n);
    g.put(L2, 0x4040_0000n | 0x4fdn);
    const vtcr = 25n | (1n << 6n) | (4n << 16n) | (1n << 19n) | (s2s << 25n) | (s2r << 26n);
    g.ste(8, 0xdn, 0n, 5n | (vtcr << 32n), BigInt(L1));
    g.run(cfgiSte(8), sync);
    return { m, g };
  }

  test.each([
    [0n, 0n, []],
    [0n, 1n, [{ code: EVENT.F_TRANSLATION, stall: false }]],
    [1n, 0n, [{ code: EVENT.F_TRANSLATION, stall: true }]],
    [1n, 1n, [{ code: EVENT.F_TRANSLATION, stall: true }]],
  ])('S2S=%i S2R=%i', (s2s, s2r, records) => {
    const { m, g } = own(s2s, s2r);
    expect(m.dma(8, 0x4000_0000)).toBe(0x4040_0000);
    const token = m.dma(8, 0x5000_0000);
    const seen = m.records();
    expect([typeof token, seen]).toMatchObject([s2s === 0n ? 'string' : 'number', records]);
    if (s2s === 0n) return;
    g.put(L2 + 8 * 128, 0x4040_0000n | 0x4fdn);
    g.run([(5n << 32n) | 0x2an, 0x5000_0000n], sync);
    m.resume(8, seen[0]!.stag, true);
    expect([m.ended, m.dma(8, 0x5000_0000)]).toEqual([[{ sid: 8, token, outcome: DMA.OK }], 0x4040_0000]);
  });

  test('of a function that cannot wait the guest is told without a stall', () => {
    const { m } = own(1n, 0n, false);
    expect(m.dma(8, 0x5000_0000)).toBe('ABORT');
    expect(m.records()).toMatchObject([{ code: EVENT.F_TRANSLATION, stall: false }]);
  });

  test.each(['stage 1', 'bypass', 'off'])('the host’s own stage 2 never stalls a guest: a hole, %s', (mode) => {
    const m = new Staller();
    const hole = 0x7_0000_0000;
    m.spaces[0]!.tables.map(0x5000, hole);
    if (mode === 'bypass') m.configure(8, 9n);
    if (mode === 'off') m.rig.g.w(PAGE0.CR0.at, 0xc);
    expect(m.dma(8, mode === 'stage 1' ? 0x5000 : hole)).toBe('ABORT');
    expect([m.records(), m.ended]).toEqual([[], []]);
  });
});

type Step =
  | { readonly do: 'dma' | 'map'; readonly sid: number; readonly page: number }
  | { readonly do: 'term'; readonly sid: number }
  | { readonly do: 'resume'; readonly which: number; readonly retry: boolean }
  | { readonly do: 'read' | 'off' | 'on' };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ do: fc.constant('dma' as const), sid: fc.constantFrom(8, 9), page: fc.nat(200) }),
  },
  fc.record({ do: fc.constant('map' as const), sid: fc.constantFrom(8, 9), page: fc.nat(200) }),
  fc.record({ do: fc.constant('term' as const), sid: fc.constantFrom(8, 9) }),
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant('resume' as const), which: fc.nat(100), retry: fc.boolean() }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom('read' as const, 'off' as const, 'on' as const) }) },
);

test('whatever a guest does: each stall ends once, records name stalls that wait, none is forgotten', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 160 }), (steps) => {
      const m = new Staller();
      /** What waits, by token: whose it is and where. */
      const waiting = new Map<number, { sid: number; iova: number }>();
      let told: Record[] = [];
      let heard = 0;
      const settle = () => {
        for (const e of m.ended.slice(heard)) {
          expect(waiting.get(e.token)?.sid).toBe(e.sid);
          waiting.delete(e.token);
        }
        heard = m.ended.length;
      };
      const read = () => {
        // Reading makes room, and what waited for it is written at once.
        for (let got = m.records(); got.length > 0; got = m.records()) {
          settle();
          for (const r of got) {
            expect([...waiting.values()].some((w) => w.sid === r.sid && w.iova === r.input)).toBe(true);
            told.push(r);
          }
        }
      };
      for (const s of steps) {
        if (s.do === 'dma') {
          const iova = 0x10_0000 + s.page * 0x1000;
          const token = m.dma(s.sid, iova);
          if (typeof token === 'number' && token !== DATA) waiting.set(token, { sid: s.sid, iova });
        } else if (s.do === 'map') m.spaces[s.sid - 8]!.tables.map(0x10_0000 + s.page * 0x1000, DATA);
        else if (s.do === 'term') {
          read();
          m.terminate(s.sid);
          told = told.filter((r) => r.sid !== s.sid);
          settle();
          expect([...waiting.values()].filter((w) => w.sid === s.sid)).toEqual([]);
          m.configure(s.sid);
        } else if (s.do === 'resume' && told.length > 0) {
          const [r] = told.splice(s.which % told.length, 1);
          m.resume(r!.sid, r!.stag, s.retry);
        } else if (s.do === 'read') read();
        else if (s.do === 'off' || s.do === 'on') m.eventQueue(s.do === 'on');
        settle();
      }
      m.eventQueue(true);
      for (let n = 0; n < 400 && waiting.size > 0; n++) {
        read();
        const r = told.shift();
        expect(r).toBeDefined();
        m.resume(r!.sid, r!.stag, false);
        settle();
      }
      expect(waiting.size).toBe(0);
    }),
    { numRuns: Number(process.env.VIOMMU_STALL_RUNS ?? 60) },
  );
});
