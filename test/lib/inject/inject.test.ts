import { describe, expect, test } from 'vitest';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { FaultyHw } from '../../../src/lib/inject/faulty-hw.ts';
import { FaultyMemory } from '../../../src/lib/inject/faulty-memory.ts';
import { AddressSpace, ramBacking } from '../../../src/lib/memory/address-space.ts';
import { HW_ERROR, type HwEvents, type HwPort } from '../../../src/ports/hw.ts';
import { OP } from '../../../src/spec/smmuv3/commands.ts';

class Hw implements HwPort {
  done = 0;
  error: number = HW_ERROR.NONE;
  pending = 0;
  readonly ran: number[] = [];
  syncs = 0;
  readRegister(): bigint {
    return 0n;
  }
  writeRegister(): void {}
  writeEntry(): void {
    this.ran.push(-1);
  }
  submit(words: Int32Array, start: number, count: number): void {
    for (let i = 0; i < count; i++) this.ran.push(words[start + 4 * i]!);
    this.syncs++;
    this.done = count;
  }
}

const BATCH = Int32Array.from(
  [OP.TLBI_NH_ALL, OP.ATC_INV, OP.CFGI_CD, OP.ATC_INV, OP.TLBI_NH_ASID].flatMap((op, i) => [op, i, 0, 0]),
);
const isOp = (op: number) => (words: Int32Array, at: number) => words[at] === op;

describe('hardware between which and the kernel a fault can be put', () => {
  test('is the hardware itself while none is', () => {
    const hw = new Hw();
    const faulty = new FaultyHw(hw);
    faulty.submit(BATCH, 0, 5);
    faulty.writeEntry(0, 0, 0, 0, 0);
    expect([faulty.done, faulty.error, faulty.pending]).toEqual([5, HW_ERROR.NONE, 0]);
    expect(hw.ran).toEqual([OP.TLBI_NH_ALL, OP.ATC_INV, OP.CFGI_CD, OP.ATC_INV, OP.TLBI_NH_ASID, -1]);
  });

  test.each([HW_ERROR.ILLEGAL, HW_ERROR.ABORT])(
    'stops at a refused or unreadable command (error %i), once',
    (error) => {
      const hw = new Hw();
      const faulty = new FaultyHw(hw);
      faulty.inject({ match: isOp(OP.CFGI_CD), error });
      faulty.submit(BATCH, 0, 5);
      expect([faulty.done, faulty.error]).toEqual([2, error]);
      expect(hw.ran).toEqual([OP.TLBI_NH_ALL, OP.ATC_INV]);
      faulty.submit(BATCH, 8, 3);
      expect([faulty.done, faulty.error]).toEqual([3, HW_ERROR.NONE]);
    },
  );

  test('lets as many pass as it is told, and hits as often', () => {
    const hw = new Hw();
    const faulty = new FaultyHw(hw);
    const back = faulty.inject({ match: isOp(OP.ATC_INV), error: HW_ERROR.ILLEGAL, after: 1, times: 2 });
    faulty.submit(BATCH, 0, 5);
    expect([faulty.done, faulty.error]).toEqual([3, HW_ERROR.ILLEGAL]);
    faulty.submit(BATCH, 0, 5);
    expect([faulty.done, faulty.error]).toEqual([1, HW_ERROR.ILLEGAL]);
    faulty.submit(BATCH, 0, 5);
    expect(faulty.error).toBe(HW_ERROR.NONE);
    back();
  });

  test('an unanswered invalidation fails the sync, and everything else was done', () => {
    const hw = new Hw();
    const faulty = new FaultyHw(hw);
    faulty.inject({ match: (w, at) => w[at] === OP.ATC_INV && w[at + 1] === 3, error: HW_ERROR.ATC_TIMEOUT });
    faulty.submit(BATCH, 0, 5);
    expect([faulty.done, faulty.error, faulty.pending]).toEqual([5, HW_ERROR.ATC_TIMEOUT, 0]);
    expect(hw.ran).toEqual([OP.TLBI_NH_ALL, OP.ATC_INV, OP.CFGI_CD, OP.TLBI_NH_ASID]);
  });

  test('or is noticed later, under a token', () => {
    const clock = new VirtualClock();
    const late: number[][] = [];
    const events = { completed: (...a: number[]) => late.push(a) } as unknown as HwEvents;
    const faulty = new FaultyHw(new Hw(), { clock, events });
    faulty.inject({ match: isOp(OP.ATC_INV), error: HW_ERROR.ATC_TIMEOUT, delay: 500 });
    faulty.submit(BATCH, 0, 5);
    expect(faulty.error).toBe(HW_ERROR.NONE);
    expect(faulty.pending).toBeGreaterThan(0);
    clock.advance(499);
    expect(late).toEqual([]);
    clock.advance(1);
    expect(late).toEqual([[faulty.pending, HW_ERROR.ATC_TIMEOUT, 1]]);
  });
});

describe('memory in which a range aborts', () => {
  function stand() {
    const space = new AddressSpace();
    space.addRam(0, 0x10000, ramBacking(0x10000));
    const memory = new FaultyMemory(space);
    return { space, memory, back: memory.abort(0x2008, 8) };
  }

  test('aborts every access that touches it, and no other', () => {
    const { memory } = stand();
    for (const [addr, fine] of [
      [0x2000, true],
      [0x2008, false],
      [0x200c, false],
      [0x2010, true],
    ] as const) {
      expect(memory.load32(addr)).toBe(fine);
      expect(memory.store32(addr, 7)).toBe(fine);
      expect(memory.locate(addr)).toBe(fine);
    }
    expect(memory.load64(0x2004)).toBe(false);
    expect(memory.store64(0x2008, 1, 2)).toBe(false);
    expect(memory.load64(0x2010)).toBe(true);
  });

  test('ends the room of a located run before it', () => {
    const { memory } = stand();
    memory.locate(0x2000);
    expect(memory.room).toBe(2);
    memory.locate(0x2010);
    expect(memory.room).toBe((0x10000 - 0x2010) / 4);
  });

  test('does the bytes before the first bad one', () => {
    const { memory, space } = stand();
    expect(memory.writeBytes(0x2004, Uint8Array.of(1, 2, 3, 4, 5, 6))).toBe(false);
    space.load64(0x2004);
    expect([space.lo, space.hi]).toEqual([0x0403_0201, 0]);
    const into = new Uint8Array(6);
    expect(memory.readBytes(0x2004, into)).toBe(false);
    expect([...into]).toEqual([1, 2, 3, 4, 0, 0]);
  });

  test('can be made good again', () => {
    const { memory, back } = stand();
    back();
    expect(memory.load64(0x2008)).toBe(true);
  });
});
