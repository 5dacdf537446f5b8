import fc from 'fast-check';
import { expect, test } from 'vitest';
import { GrantedTranslations } from '../../src/machine/granted.ts';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { Heard, Replay } from '../../src/trace/index.ts';
import { openTrace } from '../../src/trace/node.ts';

const words = (address: bigint) =>
  [Number(BigInt.asIntN(32, address)), Number(BigInt.asIntN(32, address >> 32n))] as const;

/** The range an ATS invalidation covers, written down from the specification's table: S=0 one page, else ones below a zero. */
function covers(address: bigint, page: bigint): boolean {
  if ((address & 0x800n) === 0n) return page === address >> 12n;
  const bits = (address >> 12n).toString(2).padStart(52, '0');
  const ones = /1*$/.exec(bits)![0].length;
  return page >> BigInt(ones + 1) === (address >> 12n) >> BigInt(ones + 1);
}

test('a function may hold what it was given last for a page, until an invalidation covers the page', () => {
  const page = fc.bigInt(0n, 300n);
  const step = fc.oneof(
    fc.record({ is: fc.constant('grant' as const), page, out: fc.nat(50), perm: fc.integer({ min: 1, max: 3 }) }),
    fc.record({ is: fc.constant('invalidate' as const), page, s: fc.boolean(), size: fc.nat(12) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const g = new GrantedTranslations();
      g.add(0x100);
      const model = new Map<bigint, string>();
      for (const s of steps) {
        if (s.is === 'grant') {
          g.granted(0x100, ...words((s.page << 12n) | 0x40n), s.out * 4096 + 0x40, s.perm);
          g.granted(0x200, ...words(s.page << 12n), 0, 3);
          model.set(s.page, `${s.out * 4096} ${s.perm}`);
        } else {
          const low = (1n << BigInt(s.size)) - 1n;
          const at = s.s ? (((s.page & ~(1n << BigInt(s.size))) | low) << 12n) | 0x800n : s.page << 12n;
          g.invalidated(0x100, ...words(at));
          for (const p of [...model.keys()]) if (covers(at, p)) model.delete(p);
        }
        const list = g.list().map((t) => `${t.rid} ${t.input >> 12n} ${t.out} ${t.perm}`);
        expect(list.toSorted()).toEqual([...model].map(([p, v]) => `256 ${p} ${v}`).toSorted());
      }
    }),
  );
});

test.each(['smmuv3-default', 'vtd-legacy-ats', 'vtd-v86-coherent'])(
  '%s: after an access of a function with ATS its translation is there, at the end what the guest took back is not',
  async (name) => {
    const trace = await openTrace(`guest-fixtures/recordings/${name}.ndjson.gz`);
    const heard = new Heard();
    const target = makeReplayMachine(trace.header, {}, heard.tell);
    const replay = new Replay(trace.header, target, heard);
    const ats = new Set(trace.header.devices.filter((d) => d.ats).map((d) => d.sid));
    let [granted, most] = [0, 0];
    for await (const batch of trace.batches)
      for (const e of batch) {
        replay.apply(e);
        if (e.t !== 'xlat' || !ats.has(e.sid)) continue;
        const input = ((BigInt(e.hi >>> 0) << 32n) | BigInt(e.lo >>> 0)) & ~0xfffn;
        if (++granted % 50 !== 0) continue;
        most = Math.max(most, target.granted!().length);
        expect(
          target.granted!().some((g) => g.rid === e.sid && g.input === input && g.out === e.out - (e.out % 4096)),
        ).toBe(true);
      }
    expect(granted).toBeGreaterThan(100);
    // What the driver unmaps it takes back; QEMU's SMMUv3 has no ATC to take it from.
    if (name !== 'smmuv3-default') expect(target.granted!().length).toBeLessThan(most);
  },
);
