import { expect, test } from 'vitest';
import type { TraceEvent } from '../../src/trace/index.ts';
import { without } from './planted.ts';
import { errors, type Recording, recording } from './spoil.ts';

type Store = Extract<TraceEvent, { t: 'st' }>;

/** Stores of 8 bytes to pages of a kind that satisfy `is`, some forty spread over the recording: their indices. */
function stores(r: Recording, kind: string, is: (e: Store, was: bigint) => boolean): number[] {
  const pages = new Set<number>();
  const words = new Map<number, bigint>();
  const found: number[] = [];
  const view = (data: Uint8Array) => new DataView(data.buffer, data.byteOffset, data.length);
  r.events.forEach((e, i) => {
    if (e.t === 'page') {
      if (e.kind === kind) pages.add(e.gpa);
      else pages.delete(e.gpa);
      for (let at = 0; at < 4096; at += 8)
        words.set(e.gpa + at, e.data === null ? 0n : view(e.data).getBigUint64(at, true));
    } else if (e.t === 'st' && e.size === 8) {
      const was = words.get(e.gpa) ?? 0n;
      words.set(e.gpa, (BigInt(e.hi >>> 0) << 32n) | BigInt(e.lo >>> 0));
      if (pages.has(e.gpa - (e.gpa % 4096)) && is(e, was)) found.push(i);
    }
  });
  const step = Math.max(1, Math.floor(found.length / 40));
  return found.filter((_, n) => n % step === step >> 1);
}

const isZero = (e: Store) => (e.lo | e.hi) === 0;

/** The first mutation that is found at all: what was found of error level. */
async function first(
  trace: string,
  kind: string,
  is: (e: Store, was: bigint) => boolean,
  spoil: (events: TraceEvent[], i: number) => TraceEvent[],
): Promise<string[]> {
  const r = await recording(trace);
  for (const i of stores(r, kind, is)) {
    const found = errors(
      r.header,
      without(spoil([...r.events], i), () => false),
    );
    if (found.length > 0) return found;
  }
  return [];
}

/** A store is put off until after the next write of a register, and the guest's read behind it. */
function delayed(events: TraceEvent[], i: number): TraceEvent[] {
  const [store] = events.splice(i, 1);
  let at = i;
  while (at < events.length && events[at]!.t !== 'w') at++;
  while (at + 1 < events.length && (events[at + 1]!.t === 'r' || events[at + 1]!.t === 'dst')) at++;
  events.splice(at + 1, 0, store!);
  return events;
}

test.each([
  ['smmuv3-strict-heavy', ['break-before-make']],
  ['smmuv3-16k-faults', ['break-before-make']],
  ['vtd-legacy-strict-heavy', ['missing-invalidation']],
  ['vtd-scalable-first-ats', ['missing-invalidation']],
])('%s: a store that clears a mapping is dropped', async (trace, rules) => {
  const drop = (events: TraceEvent[], i: number) => events.filter((_, n) => n !== i);

  expect(await first(trace, 'pt', (e, was) => isZero(e) && (was & 1n) !== 0n, drop)).toEqual(rules);
});

test.each([['smmuv3-strict-heavy'], ['vtd-legacy-strict-heavy'], ['vtd-scalable-second-eim-strict']])(
  '%s: a store that clears a mapping comes after its invalidation',
  async (trace) => {
    expect(await first(trace, 'pt', (e, was) => isZero(e) && (was & 1n) !== 0n, delayed)).toEqual([
      'missing-invalidation',
    ]);
  },
);

test('smmuv3-stage2only: an STE is made valid for stage 2 before its other words', async () => {
  // Linux writes words 2 and 3 while nobody looks at them, invalidates, and then word 0: word 0 is moved to the front.
  const early = (events: TraceEvent[], i: number) => {
    const word0 = events.splice(i, 1)[0] as Store;
    const at = events.findIndex((e) => e.t === 'st' && e.gpa === word0.gpa + 16);
    events.splice(at, 0, word0);
    return events;
  };
  expect(await first('smmuv3-stage2only', 'ste', (e) => (e.lo & 0xf) === 0xd, early)).toEqual(['valid-before-filled']);
});

test.each([
  ['smmuv3-strict-heavy', 0x1000_0000_0000n],
  ['vtd-legacy-strict-heavy', 0x2_0000_0000_0000n],
])('%s: a store of a mapping is torn, and leads nowhere', async (trace, bit) => {
  const tear = (events: TraceEvent[], i: number) => {
    const e = events[i] as Store;
    events[i] = { ...e, hi: e.hi | Number(bit >> 32n) };
    return events;
  };

  expect(await first(trace, 'pt', (e, was) => (e.lo & 1) !== 0 && was === 0n, tear)).toEqual(['beyond-output-size']);
});
