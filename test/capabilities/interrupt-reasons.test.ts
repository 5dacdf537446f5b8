import { describe, expect, test } from 'vitest';
import { FAULT, isQualified } from '../../src/spec/vtd/faults.ts';
import { GCMD, PAGE } from '../../src/spec/vtd/registers.ts';
import { Probe } from './bed.ts';
import { VtdGuest, vtdBed } from './vtd/machine.ts';

const RID = 0x10;
/** Handle of an entry in a message's address; SHV is bit 3. */
const to = (index: number, more = 0) => 0xfee0_0010 | (index << 5) | more;
const GOOD = 1n | (0x41n << 16n);
const OWN = BigInt(RID) | (1n << 18n);

/** A unit that remaps interrupts, with a table of 16 entries. */
function remapping(properties: object = {}) {
  const bed = vtdBed(properties);
  const g = new VtdGuest(bed).setUp();
  const fn = new Probe();
  bed.plug(fn, RID);
  const table = bed.pages();
  const at = (base: number) => {
    bed.w64(PAGE.IRTA.at, BigInt(base) | 3n);
    g.command(GCMD.SIRTP);
  };
  at(table);
  g.command(GCMD.IRE);
  return { bed, g, fn, at, entry: (index: number, lo: bigint, hi = OWN) => bed.put(table + 16 * index, lo, hi) };
}
type Remapping = ReturnType<typeof remapping>;

/** What leads to each reason an interrupt can be blocked for (VT-d §5.1.4, §7.1.3), with the index the record has. */
const REASONS: readonly [
  name: keyof typeof FAULT,
  index: number,
  cause: (m: Remapping) => void,
  properties?: object,
][] = [
  [
    'IR_REQUEST_RESERVED',
    3,
    ({ fn, entry }) => {
      entry(3, GOOD);
      fn.message(to(3, 8), 0x1_0000);
    },
  ],
  ['IR_INDEX', 16, ({ fn }) => fn.message(to(16), 0)],
  [
    'IR_P',
    4,
    ({ fn, entry }) => {
      entry(4, GOOD & ~1n);
      fn.message(to(4), 0);
    },
  ],
  [
    'IR_UNREADABLE',
    5,
    ({ fn, at }) => {
      at(0x7000_0000);
      fn.message(to(5), 0);
    },
  ],
  [
    'IR_RESERVED',
    6,
    ({ fn, entry }) => {
      entry(6, GOOD | (1n << 12n));
      fn.message(to(6), 0);
    },
  ],
  ['IR_COMPATIBILITY', 0, ({ fn }) => fn.message(0xfee0_1000, 0x41)],
  [
    'IR_SOURCE',
    7,
    ({ fn, entry }) => {
      entry(7, GOOD, OWN ^ 8n);
      fn.message(to(7), 0);
    },
  ],
  [
    'IR_PID_UNREADABLE',
    8,
    ({ fn, entry }) => {
      entry(8, GOOD | 0x8000n | (0x7000_0000n << 32n));
      fn.message(to(8), 0);
    },
    { postedInterrupts: true },
  ],
  [
    'IR_PID_RESERVED',
    9,
    ({ bed, fn, entry }) => {
      const pid = bed.pages();
      bed.put(pid + 32, 1n << 3n);
      entry(9, GOOD | 0x8000n | (BigInt(pid) << 32n));
      fn.message(to(9), 0);
    },
    { postedInterrupts: true },
  ],
  ['IR_REQUEST_TYPE', 0, ({ fn }) => fn.shell.memory.write(-1, 0xfee0_0010 | 0, 0, new Uint8Array(8), 0, 8)],
];

describe('an interrupt that is blocked', () => {
  test.each(REASONS)(
    'for %s is recorded with its reason, its source and its index, and nobody hears of it',
    (name, index, cause, properties) => {
      const m = remapping(properties);
      cause(m);
      m.bed.settle();
      expect(m.bed.messages).toEqual([]);
      expect(m.g.records()).toEqual([[BigInt(index) << 48n, RID, FAULT[name]]]);
    },
  );

  test('is recorded for every reason there is, and the list has them all', () => {
    const all = Object.keys(FAULT).filter((name) => name.startsWith('IR_'));
    expect(REASONS.map(([name]) => name).sort()).toEqual(all.sort());
  });

  test.each([0n, 2n])('for a reason of its entry is not recorded with FPD in it (%i)', (fpd) => {
    const { bed, g, fn, entry } = remapping();
    entry(7, GOOD | fpd, OWN ^ 8n);
    fn.message(to(7), 0);
    bed.settle();
    expect([g.reasons().length, isQualified(FAULT.IR_SOURCE)]).toEqual([fpd === 0n ? 1 : 0, true]);
  });
});
