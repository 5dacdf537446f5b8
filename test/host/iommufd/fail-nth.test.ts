import { describe, expect, test } from 'vitest';
import { MockPaging } from '../../../src/host/drivers/mock/domains.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { APERTURE, Host, must, VA } from '../host.ts';

const PAGE = 0x1000n;

/** Everything that must be as it was when a step fails. */
function snapshot(h: Host, ioas: readonly number[]): string {
  const objects = [...h.fd.context.objects.objects()].map((o) => [o.kind, o.id, o.users]);
  const spaces = ioas.map((id) => {
    const o = h.fd.context.objects.get(id, 'ioas');
    return o === null
      ? null
      : [o.alignment, o.domains.length, o.ranges().map(String), [...o.areas].map((a) => a.start)];
  });
  const text = (_k: string, v: unknown) => (typeof v === 'bigint' ? v.toString(16) : v);
  return JSON.stringify([objects, spaces, [...h.process.pins].sort()], text);
}

/**
 * The kernel's fail_nth test: a step is repeated, failing its nth call into memory or the driver, until it passes. Whatever
 * fails leaves everything as it was.
 */
function failNth(prepare: (h: Host) => number[], step: (h: Host, ioas: readonly number[]) => number): number {
  for (let nth = 1; nth < 200; nth++) {
    const h = new Host();
    h.process.longest = 4096;
    const ioas = prepare(h);
    const before = snapshot(h, ioas);
    let left = nth;
    const fails = () => --left === 0;
    const pin = h.process.pin.bind(h.process);
    h.process.pin = (va, bytes, write) => !fails() && pin(va, bytes, write);
    const { map, attach } = MockPaging.prototype;
    MockPaging.prototype.map = function (this: MockPaging, ...args) {
      return fails() ? -E.NOMEM : map.apply(this, args);
    };
    MockPaging.prototype.attach = function (this: MockPaging, ...args) {
      return fails() ? -E.NOMEM : attach.apply(this, args);
    };
    try {
      const r = step(h, ioas);
      if (left > 0) {
        expect(r).toBe(0);
        return nth - 1;
      }
      expect(r).toBeLessThan(0);
      expect(snapshot(h, ioas)).toBe(before);
    } finally {
      MockPaging.prototype.map = map;
      MockPaging.prototype.attach = attach;
    }
    h.fd.close();
    expect(h.process.pins.size).toBe(0);
  }
  throw new Error('never passed');
}

const device = (h: Host, io: number) => h.mock.mockDevice(io, 0, { stdevId: 0, hwptId: 0, idevId: 0 });

describe('when the nth step inside a verb fails, nothing has happened', () => {
  test('a domain joins an IOAS that is full of areas', () => {
    const tried = failNth(
      (h) => {
        const io = h.ioas();
        for (let i = 0n; i < 3n; i++) must(h.map(io, APERTURE + i * 0x10_000n, 3n * PAGE, VA + i * 4n * PAGE));
        return [io];
      },
      (h, [io]) => device(h, io!),
    );
    expect(tried).toBeGreaterThanOrEqual(9 + 3 + 1);
  });

  test('a map goes into three domains', () => {
    const tried = failNth(
      (h) => {
        const io = h.ioas();
        const d = h.device(io);
        h.hwpt(d.idev, io, 1);
        h.hwpt(d.idev, io, 2);
        return [io];
      },
      (h, [io]) => h.map(io!, APERTURE, 4n * PAGE),
    );
    expect(tried).toBeGreaterThanOrEqual(4 + 3);
  });

  test('a copy of three areas into another IOAS with a domain', () => {
    const tried = failNth(
      (h) => {
        const a = h.ioas();
        const b = h.ioas();
        h.device(b);
        for (let i = 0n; i < 3n; i++) must(h.map(a, i * PAGE, PAGE, VA + 2n * i * PAGE));
        return [a, b];
      },
      (h, [a, b]) =>
        h.fd.ioasCopy({ flags: 7, srcIoasId: a!, dstIoasId: b!, length: 3n * PAGE, srcIova: 0n, dstIova: APERTURE }),
    );
    expect(tried).toBeGreaterThanOrEqual(6);
  });

  test('a replace with an IOAS that makes a new automatic domain', () => {
    const tried = failNth(
      (h) => {
        const a = h.ioas();
        const b = h.ioas();
        must(device(h, a));
        must(h.map(b, APERTURE, 2n * PAGE));
        return [a, b];
      },
      (h, [, b]) => h.mock.replace(3, b!),
    );
    expect(tried).toBeGreaterThanOrEqual(4);
  });
});
