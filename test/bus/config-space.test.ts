import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Bars } from '../../src/lib/pci/bars.ts';
import { ConfigSpace } from '../../src/lib/pci/config-space.ts';
import { endpointHeader } from '../../src/lib/pci/header.ts';
import { HEADER } from '../../src/spec/pcie/header.ts';

const ID = { vendor: 0x1b36, device: 5, classCode: 0xff0000 };

function space(size: 256 | 4096 = 4096): ConfigSpace {
  const config = new ConfigSpace(size);
  endpointHeader(config, ID);
  return config;
}

describe('configuration space', () => {
  test('a guest that writes ones everywhere changes writable bits and nothing else', () => {
    const config = space();
    const before = config.save();
    for (let at = 0; at < 4096; at += 4) config.write(at, 4, 0xffff_ffff);

    const changed = config.save().map((b, i) => b ^ before[i]!);
    expect(changed[HEADER.COMMAND]! | (changed[HEADER.COMMAND + 1]! << 8)).toBe(0x0507);
    const elsewhere = changed.flatMap((b, i) => (b === 0 ? [] : [i]));
    expect(elsewhere).toEqual([HEADER.COMMAND, HEADER.COMMAND + 1, HEADER.CACHE_LINE, HEADER.INTERRUPT_LINE]);
  });

  test('a guest reads ones beyond a conventional space, and its writes there vanish', () => {
    const config = space(256);
    config.write(0x100, 4, 0);
    expect(config.read(0x100, 4)).toBe(0xffff_ffff);
    expect(config.read(0xfe, 4)).toBe(0xffff_ffff);
    expect(config.read(0x1ff, 1)).toBe(0xff);
  });

  test('bytes, words and double words of one register are the same storage', () => {
    fc.assert(
      fc.property(fc.nat(0xffff_ffff), fc.constantFrom(1, 2, 4), (value, size) => {
        const config = space();
        config.writable(0x40, 4, 0xffff_ffff);
        for (let i = 0; i < 4; i += size) config.write(0x40 + i, size, value >>> (8 * i));
        return config.read(0x40, 4) === value;
      }),
    );
  });

  test('capabilities form one list, extended ones another, and both are found by id', () => {
    const config = space();
    const a = config.addCapability(0x05, 0x18);
    const b = config.addCapability(0x11, 12);
    const c = config.addExtended(0x0f, 1, 8);
    const d = config.addExtended(0x1b, 1, 8);
    expect([config.find(0x05), config.find(0x11), config.find(0x10)]).toEqual([a, b, 0]);
    expect([config.findExtended(0x0f), config.findExtended(0x1b), config.findExtended(1)]).toEqual([c, d, 0]);
    expect(config.read(HEADER.STATUS, 2) & 0x10).toBe(0x10);
    expect(() => config.addCapability(9, 0x100)).toThrow(/no room/);
  });

  test('a saved space loads again with every byte', () => {
    const config = space();
    config.write(HEADER.COMMAND, 2, 7);
    const other = space();
    other.load(config.save());
    expect(other.save()).toEqual(config.save());
    config.reset();
    expect(config.read(HEADER.COMMAND, 2)).toBe(0);
  });
});

describe('base address registers', () => {
  test('sizing by all ones tells size and kind of every BAR', () => {
    const config = space();
    const bars = new Bars(config, [
      { index: 0, bytes: 4096, kind: 'mem32' },
      { index: 1, bytes: 32, kind: 'io' },
      { index: 2, bytes: 0x1_0000, kind: 'mem64', prefetchable: true },
    ]);
    for (let i = 0; i < 6; i++) config.write(HEADER.BAR0 + 4 * i, 4, 0xffff_ffff);
    const read = [0, 1, 2, 3, 4].map((i) => config.read(HEADER.BAR0 + 4 * i, 4));
    expect(read).toEqual([0xffff_f000, 0xffff_ffe1, 0xffff_000c, 0xffff_ffff, 0]);
    config.write(HEADER.COMMAND, 2, 3);
    expect([bars.address(0), bars.address(1), bars.address(2)]).toEqual([-1, -1, -1]);
  });

  test('a BAR decodes where it was written, only while COMMAND lets it, and moves with the next write', () => {
    const config = space();
    const bars = new Bars(config, [{ index: 0, bytes: 4096, kind: 'mem64' }]);
    config.write(HEADER.BAR0, 4, 0x1000_0abc);
    config.write(HEADER.BAR0 + 4, 4, 0x80);
    expect(bars.address(0)).toBe(-1);
    config.write(HEADER.COMMAND, 2, 2);
    expect(bars.address(0)).toBe(0x80_1000_0000);
    config.write(HEADER.BAR0, 4, 0x2000_0000);
    expect(bars.address(0)).toBe(0x80_2000_0000);
    config.write(HEADER.COMMAND, 2, 1);
    expect(bars.address(0)).toBe(-1);
  });
});
