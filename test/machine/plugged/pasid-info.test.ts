import { expect, test } from 'vitest';
import { Bridge } from '../../../bus/bridge.ts';
import { PasidSpace } from '../../../src/lib/pasid/pasid-space.ts';
import { PasidLayer } from '../../../src/machine/pasid/pasid-layer.ts';
import { KINDS, probe, Rig } from './rig.ts';

const PASIDS = { pasid: { width: 16 } };
const NONE = { several: false, bits: 0, first: 0, end: 0 };

test.each(KINDS)('a program asks a %s machine what a function has, from when the guest knows it', (kind) => {
  const rig = new Rig(kind);
  const wide = probe({ name: 'wide', ...PASIDS });
  const narrow = probe({ name: 'narrow', pasid: { width: 4 } });
  const plain = probe({ name: 'plain' });
  [wide, narrow, plain].forEach((fn, i) => {
    rig.plug(fn, 0x10 + 8 * i);
  });
  const management = kind === 'smmuv3' ? 'guest-table' : 'host-table';
  // The unit has 8 bits.
  const has = (bits: number) => ({ several: true, bits, management, first: 1, end: 2 ** bits });
  expect(rig.machine.pasidInfo(wide)).toEqual(has(8));
  expect(rig.machine.pasidInfo(narrow)).toEqual(has(4));
  expect(rig.machine.pasidInfo(plain)).toEqual({ ...NONE, management });

  const away = probe({ name: 'away', ...PASIDS });
  expect(() => rig.machine.pasidInfo(away)).toThrow('not plugged in');
  const port = new Bridge({ kind: 'root' });
  rig.machine.plug(port, 0x80);
  rig.machine.plug(away, 0, port);
  expect(() => rig.machine.pasidInfo(away)).toThrow('numbered');
  rig.number(0, 0x80, 1);
  expect(rig.machine.pasidInfo(away)).toEqual(has(8));
});

test('a program asks what each function can do with PASIDs, and whose they are', () => {
  const rig = new Rig('vtd', { pasids: new PasidLayer(new PasidSpace(0x40, 0x80)) });
  const [own, pool, slice] = ['own', 'pool', 'slice'].map((name) => probe({ name, ...PASIDS }));
  rig.machine.plug(own!, 0x10);
  rig.machine.plug(pool!, 0x18, undefined, { pasids: 'global' });
  rig.machine.plug(slice!, 0x20, undefined, { slice: { of: own!, pasid: 0x50 } });
  // Bits that reach beyond the split are not shown to the guest.
  const has = { several: true, bits: 6, first: 1, end: 0x40 };
  expect(rig.machine.pasidInfo(own!)).toEqual({ ...has, management: 'host-table' });
  expect(rig.machine.pasidInfo(pool!)).toEqual({ ...has, management: 'global' });
  expect(() => rig.machine.pasidInfo(slice!)).toThrow('no function of its own');
});
