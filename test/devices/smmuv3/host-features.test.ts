import { expect, test } from 'vitest';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { Guest, type GuestOptions } from './guest.ts';

const FULL: GuestOptions = {
  profile: 'arch',
  properties: { ats: true, pri: true, stall: true, ssidsize: 8, oas: 48, httu: 2 },
};
const F0 = PAGE0.IDR0.fields;

/** Plugs a device in whose SMMU has `value` in a field, and answers what was missing. */
function missing(o: GuestOptions, register: number, [at, bits]: readonly [number, number], value: number): string {
  const g = new Guest(o);
  const mask = ((1 << bits) - 1) << at;
  g.host.idr[register] = ((g.host.idr[register]! & ~mask) | (value << at)) >>> 0;
  try {
    g.plug(8);
    return '';
  } catch (e) {
    return /\(field=(\w+)\)/.exec((e as Error).message)?.[1] ?? String(e);
  }
}

test('a device whose SMMU lacks what the guest is shown is refused, with the field that is missing', () => {
  const { IDR1, IDR3, IDR5 } = PAGE0;
  const cases: [number, readonly [number, number], number, string][] = [
    [0, F0.S1P, 0, 'S1P'],
    [0, F0.S2P, 0, 'S2P'],
    [0, F0.TTF, 1, 'TTF'],
    [0, F0.TTENDIAN, 3, 'TTENDIAN'],
    [0, F0.ST_LEVEL, 0, 'ST_LEVEL'],
    [0, F0.ATS, 0, 'ATS'],
    [0, F0.PRI, 0, 'PRI'],
    [0, F0.CD2L, 0, 'CD2L'],
    [0, F0.HTTU, 1, 'HTTU'],
    [0, F0.STALL_MODEL, 1, 'STALL_MODEL'],
    [1, IDR1.fields.SIDSIZE, 15, 'SIDSIZE'],
    [1, IDR1.fields.SSIDSIZE, 7, 'SSIDSIZE'],
    [3, IDR3.fields.RIL, 0, 'RIL'],
    [5, IDR5.fields.OAS, 4, 'OAS'],
    [5, IDR5.fields.GRAN4K, 0, 'GRAN4K'],
    [5, IDR5.fields.GRAN16K, 0, 'GRAN16K'],
    [5, IDR5.fields.GRAN64K, 0, 'GRAN64K'],
  ];
  for (const [register, at, value, want] of cases) expect(missing(FULL, register, at, value), want).toBe(want);
});

test('a host that has more than the guest is shown is welcome', () => {
  const cases: [number, readonly [number, number], number][] = [
    [0, F0.TTF, 3],
    [0, F0.TTENDIAN, 0],
    [1, PAGE0.IDR1.fields.SIDSIZE, 32],
    [1, PAGE0.IDR1.fields.SSIDSIZE, 20],
    [5, PAGE0.IDR5.fields.OAS, 6],
  ];
  for (const [register, at, value] of cases) expect(missing({}, register, at, value)).toBe('');
});

test('a host that is no SMMUv3 is refused', () => {
  const g = new Guest();
  g.host.failing.set('GET_HW_INFO', -95);
  expect(() => g.plug(8)).toThrow('GET_HW_INFO refused: EOPNOTSUPP');
});
