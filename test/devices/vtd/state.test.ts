import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Guest, READ, WRITE } from './guest.ts';

const ROOT = 0x30_0000;
const OPTIONS = 'scalable-mode=on,fsts=on,pasid-bits=8,svm=on,device-iotlb=on,caching-mode=on';

/** Tables in which every kind of entry is reachable, most of them broken in some way. */
function stage(g: Guest): void {
  g.store(ROOT, 0x30_1001n, 0x31_8001n);
  g.store(0x30_1100, 0x30_2001n, 0x502n, 0x30_2005n, 0x602n);
  g.store(0x31_0200, 0x31_101dn);
  for (let i = 0; i < 4; i++) g.store(0x31_1000 + 8 * i, 0x31_2001n + BigInt(i * 0x1000));
  for (let i = 0; i < 8; i++) g.store(0x31_2000 + 64 * i, 0x30_2009n | (BigInt(i % 6) << 6n), 5n, 0x30_2000n);
  for (const [t, next] of [
    [0x30_2000, 0x30_3007n],
    [0x30_3000, 0x30_4007n],
    [0x30_4000, 0x30_5007n],
  ] as const) {
    g.store(t, next, 0x87n, next, 0x8000_0000_0000_0007n);
  }
  for (let i = 0; i < 64; i++) g.store(0x30_5000 + 8 * i, 0x40_0007n + BigInt(i * 0x1000));
}

const qword = fc.oneof(
  fc.bigInt(0n, (1n << 64n) - 1n),
  fc.constantFrom(
    0n,
    1n,
    0x30_0000n,
    0x30_0400n,
    0x30_0c00n,
    0x31_0001n,
    0x10_0000n,
    0x10_0800n,
    0x5000n,
    (1n << 64n) - 1n,
  ),
);
const descriptor = fc
  .tuple(fc.integer({ min: 0, max: 15 }), fc.integer({ min: 0, max: 0xff }), fc.integer({ min: 0, max: 31 }), qword)
  .map(
    ([type, more, did, hi]) =>
      [BigInt(type) | (BigInt(more) << 4n) | (BigInt(did) << 16n) | ((hi & 0xffn) << 32n), hi] as const,
  );
const REGISTERS = [
  0x18, 0x20, 0x28, 0x34, 0x38, 0x3c, 0x40, 0x80, 0x88, 0x90, 0x9c, 0xa0, 0xb8, 0xc0, 0xc8, 0xd0, 0xdc, 0xe0, 0xf0,
  0xf8, 0x228, 0x22c, 0xe00,
];
const GCMDS = [
  0, 0x4000_0000, 0x8000_0000, 0x8400_0000, 0x0400_0000, 0x8700_0000, 0xc780_0000, 0x0100_0000, 0x8600_0000,
];

type Action =
  | { readonly k: 'write'; readonly at: number; readonly size: number; readonly v: bigint }
  | { readonly k: 'submit'; readonly d: readonly [bigint, bigint] }
  | { readonly k: 'store'; readonly at: number; readonly v: bigint }
  | { readonly k: 'dma'; readonly rid: number; readonly pasid: number; readonly page: number; readonly write: boolean }
  | { readonly k: 'irq'; readonly rid: number; readonly a: number; readonly d: number }
  | { readonly k: 'drain'; readonly pending: number; readonly error: number };

const action: fc.Arbitrary<Action> = fc.oneof(
  fc.record({
    k: fc.constant('write' as const),
    at: fc.oneof(fc.constantFrom(...REGISTERS), fc.integer({ min: 0, max: 0x1004 })),
    size: fc.constantFrom(1, 2, 4, 4, 4, 8, 8),
    v: fc.oneof(qword, fc.constantFrom(...GCMDS).map(BigInt)),
  }),
  fc.record({
    k: fc.constant('write' as const),
    at: fc.constant(0x18),
    size: fc.constant(4),
    v: fc.constantFrom(...GCMDS).map(BigInt),
  }),
  fc.record({ k: fc.constant('submit' as const), d: descriptor }),
  fc.record({
    k: fc.constant('store' as const),
    at: fc.integer({ min: 0x30_0000 / 8, max: 0x31_4000 / 8 }).map((n) => n * 8),
    v: qword,
  }),
  fc.record({
    k: fc.constant('dma' as const),
    rid: fc.constantFrom(0x10, 0x11, 0x80),
    pasid: fc.constantFrom(-1, -1, 0, 1, 2, 3, 200),
    page: fc.constantFrom(0, 5, 5, 63, 64, 0xfee00, 2 ** 36, 2 ** 40),
    write: fc.boolean(),
  }),
  fc.record({
    k: fc.constant('irq' as const),
    rid: fc.integer({ min: 0, max: 0xffff }),
    a: fc.integer({ min: 0, max: 0xf_ffff }),
    d: fc.integer(),
  }),
  fc.record({ k: fc.constant('drain' as const), pending: fc.constantFrom(0, 0, 1), error: fc.constantFrom(0, 3) }),
);

function run(g: Guest, a: Action): unknown {
  switch (a.k) {
    case 'write':
      g.vtd.write(a.at, a.size, Number(a.v & 0xffff_ffffn) | 0, Number(a.v >> 32n) | 0);
      return a.at % 4 === 0 ? g.r32(a.at) : 0;
    case 'submit':
      g.submit(...a.d);
      return [g.r32(0x80), g.r32(0x34)];
    case 'store':
      return g.store(a.at, a.v);
    case 'dma':
      return g.host.dma(a.rid, a.pasid, a.page * 4096, a.write ? WRITE : READ);
    case 'irq':
      return g.vtd.interrupts.remap(a.rid, 0xfee0_0000 + (a.a & ~3), a.d);
    case 'drain':
      g.host.pending = a.pending;
      if (a.error !== 0) g.host.handlers?.onInvalidateError?.(1000, a.error, 0);
      if (a.pending === 0) g.host.handlers?.onDrained?.();
      return g.r32(0x34);
  }
}

function made(profile: 'qemu-11.1' | 'arch', options = OPTIONS): Guest {
  const g = new Guest(options, profile, { ramBytes: 16 << 20 });
  for (const rid of [0x10, 0x11, 0x80]) g.vtd.addDevice({ rid, vfio: g.host.vfio(rid) });
  stage(g);
  g.queueOn(true);
  return g;
}

describe.each(['qemu-11.1', 'arch'] as const)('%s', (profile) => {
  test('no sequence of accesses, descriptors, tables, DMA and completions throws or hangs (200,000 actions)', {
    timeout: 60_000,
  }, () => {
    let done = 0;
    const per = 2000;
    fc.assert(
      fc.property(
        fc.array(action, { minLength: per, maxLength: per, size: 'max' }),
        fc.boolean(),
        (actions, legacy) => {
          const g = made(profile, legacy ? 'caching-mode=on,device-iotlb=on' : OPTIONS);
          for (const a of actions) {
            run(g, a);
            done++;
            // Wherever the guest has brought it, its state is one that can be loaded, and is the same afterwards.
            if (done % 100 !== 0) continue;
            const saved = structuredClone(g.vtd.save());
            g.vtd.checkState(saved);
            if (done % 500 !== 0) continue;
            g.vtd.load(saved);
            expect(g.vtd.save()).toStrictEqual(saved);
          }
        },
      ),
      { numRuns: 52, endOnFailure: true },
    );
    expect(done).toBeGreaterThanOrEqual(100_000);
  });

  test('a saved and loaded device goes on exactly as the one that was not', () => {
    fc.assert(
      fc.property(fc.array(action, { maxLength: 40 }), fc.array(action, { maxLength: 40 }), (before, after) => {
        const a = made(profile);
        for (const x of before) run(a, x);
        const b = made(profile);
        const bytes = new Uint8Array(4 << 20);
        a.host.memory.readBytes(0, bytes);
        b.host.memory.writeBytes(0, bytes);
        b.driver.tail = a.driver.tail;
        b.host.pending = a.host.pending;
        b.vtd.load(JSON.parse(JSON.stringify(a.vtd.save())));
        // What the host holds is made anew after a load; start both from there.
        a.vtd.load(a.vtd.save());
        for (const x of after) expect(run(b, x)).toEqual(run(a, x));
        for (let at = 0; at < 0x1000; at += 4) expect(b.r32(at)).toBe(a.r32(at));
        expect(b.vtd.attachments().map((s) => [s.rid, s.pasid])).toEqual(
          a.vtd.attachments().map((s) => [s.rid, s.pasid]),
        );
      }),
      { numRuns: 25 },
    );
  });
});

test('a wait that is outstanding when the device is saved completes after the load', () => {
  const g = made('arch');
  g.host.pending = 1;
  g.submit(0x7_0000_0025n, 0x20_0000n);
  const state = JSON.parse(JSON.stringify(g.vtd.save()));
  const h = made('arch');
  h.host.pending = 1;
  h.vtd.load(state);
  expect(h.load(0x20_0000)).toBe(0n);
  h.host.pending = 0;
  h.host.handlers!.onDrained!();
  expect(h.load(0x20_0000)).toBe(7n);
});
