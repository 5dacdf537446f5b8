import { describe, expect, test } from 'vitest';
import { loadAccesses, parseAccesses, replayAccesses } from '../../../tools/live-arm/accesses.ts';
import { GUESTS } from '../../../tools/live-arm/guests.ts';
import { buildMachine } from '../../../tools/live-arm/machine.ts';

describe('guests of the architecture profile, as they ran on a processor', () => {
  test.each(GUESTS.filter((g) => !g.onQemu).map((g) => g.name))('%s reads here what it read there', (name) => {
    const guest = GUESTS.find((g) => g.name === name)!;
    const accesses = loadAccesses(name);
    expect(accesses.filter((a) => a.kind === 'r').length).toBeGreaterThan(20);
    expect(replayAccesses(buildMachine(guest, null).map!, accesses)).toBeNull();
  });

  test('a machine without stalls is noticed', () => {
    const guest = GUESTS.find((g) => g.name === 'arch-stall')!;
    const other = { ...guest, name: 'queue-wrap', onQemu: true };
    expect(replayAccesses(buildMachine(other, null).map!, loadAccesses('arch-stall'))).toMatch(
      /^access \d+: r 0xc000000 4/,
    );
  });
});

test('a line that is no access is refused with its number', () => {
  expect(() => parseAccesses('r 0x0 4 0x0\nnonsense\n')).toThrow('line 2: not an access: nonsense');
});
