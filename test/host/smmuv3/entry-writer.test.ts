import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  abortSte,
  bypassSte,
  CD_RULES,
  cdTableSte,
  nestedSte,
  STE_RULES,
  type SteDevice,
  stageOneCd,
  stageTwoSte,
} from '../../../src/host/drivers/smmuv3/entries.ts';
import { ENTRY_HALVES, type EntryRules, EntryWriter } from '../../../src/host/drivers/smmuv3/entry-writer.ts';
import { CONFIG, S1DSS } from '../../../src/spec/smmuv3/ste.ts';

/** The device of the kernel's own unit tests: stalls and type overrides exist. */
const DEVICE: SteDevice = { attrTypesOvr: true, stalls: true, stallEnabled: false };
const STALLING: SteDevice = { ...DEVICE, stallEnabled: true };
const S2 = { vmid: 7, ttb: 0xdaed_beef_d000, ias: 44, psCode: 4, fwb: false };
const CDS = { base: 0x1234_5678_9000, s1Fmt: 0, cdMax: 4 };

type Entry = Int32Array;
const build = (fill: (into: Entry) => void): Entry => {
  const e = new Int32Array(ENTRY_HALVES);
  fill(e);
  return e;
};
const abort = build(abortSte);
const bypass = build((e) => bypassSte(e, DEVICE));
const cds = (s1dss: number = S1DSS.SSID0, ats = true, dev = DEVICE, base = CDS.base) =>
  build((e) => cdTableSte(e, dev, { ...CDS, base }, ats, s1dss));
const s2 = (ats = true, dev = DEVICE, vmid = S2.vmid) => build((e) => stageTwoSte(e, dev, { ...S2, vmid }, ats));
/** A guest's CD table whose streams without SSID bypass stage 1, over S2. */
const nestedBypass = build((e) => {
  const vste = new Int32Array(cds(S1DSS.BYPASS, false).subarray(0, 4));
  vste[3] = 0;
  nestedSte(e, DEVICE, S2, vste, true);
});

interface Run {
  syncs: number;
  hitless: boolean;
  /** The entry after every single 64-bit store. */
  states: Entry[];
  end: Entry;
}

function run(rules: EntryRules, from: Entry, to: Entry): Run {
  const entry = new Int32Array(from);
  const memory = new Int32Array(from);
  const states: Entry[] = [];
  let syncs = 0;
  const hitless = new EntryWriter(rules).write(entry, to, {
    store(word, lo, hi) {
      memory[2 * word] = lo;
      memory[2 * word + 1] = hi;
      states.push(new Int32Array(memory));
    },
    sync: () => {
      syncs++;
    },
  });
  expect(entry).toEqual(memory);
  return { syncs, hitless, states, end: memory };
}

/** Every state the hardware could see behaves exactly like the start or the end, or differs in harmless bits only. */
function seamless(rules: EntryRules, from: Entry, to: Entry, states: readonly Entry[]): boolean {
  const used = (e: Entry) => build((u) => rules.used(e, u));
  const safe = build((s) => rules.safe?.(from, to, s));
  const same = (state: Entry, as: Entry) => {
    const bits = used(as);
    return bits.every((mask, i) => ((state[i]! ^ as[i]!) & mask & ~safe[i]!) === 0);
  };
  return states.every((s) => same(s, from) || same(s, to));
}

describe('the stream table entry moves', () => {
  test.each([
    ['bypass → abort', bypass, abort, 2, true],
    ['abort → bypass', abort, bypass, 2, true],
    ['CD table → abort', cds(), abort, 2, true],
    ['abort → CD table', abort, cds(), 2, true],
    ['CD table → bypass', cds(), bypass, 3, true],
    ['bypass → CD table', bypass, cds(), 3, true],
    ['SSID0 → S1DSS bypass', cds(), cds(S1DSS.BYPASS), 1, true],
    ['S1DSS bypass → SSID0', cds(S1DSS.BYPASS), cds(), 1, true],
    ['S1DSS bypass → bypass', cds(S1DSS.BYPASS), bypass, 2, true],
    ['bypass → S1DSS bypass', bypass, cds(S1DSS.BYPASS), 2, true],
    ['stage 2 → abort', s2(), abort, 2, true],
    ['abort → stage 2', abort, s2(), 2, true],
    ['stage 2 → bypass', s2(), bypass, 2, true],
    ['bypass → stage 2', bypass, s2(), 2, true],
    ['stage 1 → stage 2', cds(), s2(true, DEVICE, 0), 3, true],
    ['stage 2 → stage 1', s2(true, DEVICE, 0), cds(), 3, true],
    // Both stages read the VMID, and only word 2 can hold it: a stage 2 of its own VMID is not reached in one store.
    ['stage 1 → stage 2 of another VMID', cds(), s2(), 3, false],
    ['another CD table and S1DSS', cds(), cds(S1DSS.BYPASS, true, DEVICE, 0x9876_5432_1000), 3, false],
    ['stage 1 → stage 2 with stalls', cds(S1DSS.SSID0, false, STALLING), s2(false, STALLING, 0), 3, true],
    ['stage 2 → stage 1 with stalls', s2(false, STALLING, 0), cds(S1DSS.SSID0, false, STALLING), 3, true],
    ['nested S1DSS bypass → stage 2', nestedBypass, s2(false), 3, true],
    ['stage 2 → nested S1DSS bypass', s2(false), nestedBypass, 2, true],
  ] as const)('%s', (_, from, to, syncs, hitless) => {
    const r = run(STE_RULES, from, to);
    expect({ syncs: r.syncs, hitless: r.hitless }).toEqual({ syncs, hitless });
    expect(r.end).toEqual(to);
    const seen = hitless ? seamless(STE_RULES, from, to, r.states) : r.states.some((s) => (s[0]! & 1) === 0);
    expect(seen).toBe(true);
  });
});

describe('the context descriptor moves', () => {
  const none = new Int32Array(ENTRY_HALVES);
  const s1 = (asid: number) =>
    build((e) => stageOneCd(e, { asid, ttb: 0xabc0_0000, ias: 48, ipsCode: 4, dirty: false }, false));
  const EPD0 = 1 << 14;
  /** The same address space with its tables gone: walks of TTB0 are off, nothing of it is set, nothing is recorded. */
  const released = build((e) => {
    e.set(s1(7));
    e[0] = (e[0]! & ~0x3fff) | EPD0;
    e[1]! &= ~((1 << 12) | (1 << 13));
    e[2] = 0;
    e[3] = 0;
  });
  const sva = build((e) => {
    e.set(s1(7));
    e[1]! &= ~(1 << 13);
  });

  test.each([
    ['nothing → stage 1', none, s1(778), 2, false],
    ['stage 1 → nothing', s1(778), none, 2, false],
    ['to another ASID', s1(778), s1(889), 1, true],
    ['and back', s1(889), s1(778), 1, true],
    ['nothing → shared tables', none, sva, 2, false],
    ['shared tables → nothing', sva, none, 2, false],
    ['shared tables → released', sva, released, 2, true],
    ['released → shared tables', released, sva, 2, true],
  ] as const)('%s', (_, from, to, syncs, hitless) => {
    const r = run(CD_RULES, from, to);
    expect(r.syncs).toBe(syncs);
    expect(r.end).toEqual(to);
    if (hitless) expect(seamless(CD_RULES, from, to, r.states)).toBe(true);
  });
});

test('a step that changes nothing needs no sync: the same entry again is free', () => {
  for (const e of [abort, bypass, cds(), s2(), nestedBypass]) expect(run(STE_RULES, e, e).syncs).toBe(0);
});

test('no builder sets a bit the hardware would not read in that configuration', () => {
  for (const e of [abort, bypass, cds(), cds(S1DSS.BYPASS), s2(), s2(true, STALLING), nestedBypass]) {
    const used = build((u) => STE_RULES.used(e, u));
    expect(e.every((w, i) => (w & ~used[i]!) === 0)).toBe(true);
  }
});

test('whatever one entry becomes, it arrives, and is never half one and half the other while valid', () => {
  const word = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
  const any = fc
    .tuple(
      fc.constantFrom(0, CONFIG.BYPASS, CONFIG.S1, CONFIG.S2, CONFIG.NESTED),
      fc.boolean(),
      fc.array(word, { minLength: 8, maxLength: 8 }),
    )
    .map(([config, valid, noise]) =>
      build((e) => {
        e[0] = valid ? 1 | (config << 1) : 0;
        for (let i = 0; i < 8; i++) e[i]! |= i === 0 ? noise[0]! & ~0xf : noise[i]!;
        const used = build((u) => STE_RULES.used(e, u));
        for (let i = 0; i < ENTRY_HALVES; i++) e[i]! &= used[i]!;
      }),
    );
  fc.assert(
    fc.property(any, any, (from, to) => {
      const r = run(STE_RULES, from, to);
      expect(r.end).toEqual(to);
      expect(r.syncs).toBeLessThanOrEqual(3);
      const visible = r.states.filter((s) => (s[0]! & 1) !== 0);
      expect(seamless(STE_RULES, from, to, r.hitless ? r.states : visible)).toBe(true);
    }),
    { numRuns: 3000 },
  );
});
