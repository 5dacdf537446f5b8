import { describe, expect, test } from 'vitest';
import { PAGE } from '../../src/spec/vtd/registers.ts';
import { VtdGuest, vtdBed } from './vtd/machine.ts';

const FIRST = { scalableMode: true, fsts: true, pasidBits: 8 } as const;
const ALLOC = 1n;

/** A unit whose virtual commands take a microsecond. */
function slow() {
  const bed = vtdBed({ ...FIRST, vcmdDelay: 1000 });
  new VtdGuest(bed).setUp();
  const answer = () => {
    const word = bed.r64(PAGE.VCRSP.at);
    return { pending: word & 1n, status: Number((word >> 1n) & 0x7fn), pasid: Number((word >> 16n) & 0xf_ffffn) };
  };
  return { bed, answer, clock: bed.machine.vm.clock };
}

describe('a virtual command that takes time', () => {
  test('shows IP until it is done, and what is written meanwhile is no command', () => {
    const { bed, answer, clock } = slow();
    bed.w64(PAGE.VCMD.at, ALLOC);
    expect(answer().pending).toBe(1n);
    bed.w64(PAGE.VCMD.at, ALLOC);
    clock.advance(999);
    expect(answer().pending).toBe(1n);
    clock.advance(1);
    expect(answer()).toEqual({ pending: 0n, status: 0, pasid: 1 });
    clock.advance(5000);
    expect(answer()).toEqual({ pending: 0n, status: 0, pasid: 1 });
    // The driver tries again when IP is clear.
    bed.w64(PAGE.VCMD.at, ALLOC);
    clock.advance(1000);
    expect(answer().pasid).toBe(2);
  });

  test('is forgotten by a reset', () => {
    const { bed, answer, clock } = slow();
    bed.w64(PAGE.VCMD.at, ALLOC);
    bed.machine.reset();
    clock.advance(5000);
    expect(answer()).toEqual({ pending: 0n, status: 0, pasid: 0 });
  });

  test('is done after a load of a state that was saved in the middle of it', () => {
    const [one, two] = [slow(), slow()];
    one.bed.w64(PAGE.VCMD.at, ALLOC);
    const state = JSON.parse(JSON.stringify(one.bed.machine.unit.save()));
    two.bed.machine.unit.load(state);
    expect(two.answer().pending).toBe(1n);
    two.clock.advance(1000);
    expect(two.answer()).toEqual({ pending: 0n, status: 0, pasid: 1 });
  });
});
