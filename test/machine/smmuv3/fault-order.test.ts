import { describe, expect, test } from 'vitest';
import { qemuFirstFault } from '../../../devices/smmuv3/qemu/records.ts';
import type { ProfileName } from '../../../src/lib/profile/profile.ts';
import { ACCESS } from '../../../src/ports/dma.ts';
import { EVENT } from '../../../src/spec/smmuv3/events.ts';
import { cfgiAll, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, space, type Tables } from './rig.ts';

const IOVA = 0x20_5000;
const READ_ONLY_TABLE = 1n << 62n;
/** A leaf that may only be read. */
const READ_ONLY = 0x4c3n;

/** The types of the guest's records after one write by stream 8 to IOVA, with tables that `prepare` made. */
function faults(profile: ProfileName, prepare: (t: Tables, rig: Rig) => void): number[] {
  const rig = new Rig({ properties: { profile, stage: '1' } });
  const { g } = rig;
  rig.plug(8);
  const { tables, ste } = space(g, 0, 1);
  prepare(tables, rig);
  g.ste(8, ste);
  g.setUp(5);
  g.run(cfgiAll, sync);
  expect(rig.dma(8, IOVA, ACCESS.WRITE)).toBe('ABORT');
  return Array.from({ length: g.r(0x100a8) }, (_, i) => Number(g.event(i)[0]! & 0xffn));
}

describe('an access with several faults is reported with the one that the profile judges first', () => {
  test('a table that forbids the write over a page that is not there', () => {
    const prepare = (t: Tables, rig: Rig) => {
      t.map(IOVA, 0x4040_5000);
      t.unmap(IOVA);
      rig.g.put(t.root, rig.g.get(t.root) | READ_ONLY_TABLE);
    };
    expect(faults('arch', prepare)).toEqual([EVENT.F_TRANSLATION]);
    expect(faults('qemu-11.1', prepare)).toEqual([EVENT.F_PERMISSION]);
  });

  test('a read-only leaf beyond the output size', () => {
    const prepare = (t: Tables) => t.map(IOVA, 0x8000_0000_0000, READ_ONLY);
    expect(faults('arch', prepare)).toEqual([EVENT.F_ADDR_SIZE]);
    expect(faults('qemu-11.1', prepare)).toEqual([EVENT.F_PERMISSION]);
  });

  test('a leaf that was not accessed yet, beyond the output size', () => {
    const prepare = (t: Tables) => t.map(IOVA, 0x8000_0000_0000, 0x43n);
    expect(faults('arch', prepare)).toEqual([EVENT.F_ADDR_SIZE]);
    expect(faults('qemu-11.1', prepare)).toEqual([EVENT.F_ACCESS]);
  });

  test('one fault alone is the same for both', () => {
    for (const profile of ['arch', 'qemu-11.1'] as const) {
      expect(faults(profile, () => {})).toEqual([EVENT.F_TRANSLATION]);
      expect(faults(profile, (t) => t.map(IOVA, 0x4040_5000, READ_ONLY))).toEqual([EVENT.F_PERMISSION]);
      expect(faults(profile, (t) => t.map(IOVA, 0x8000_0000_0000))).toEqual([EVENT.F_ADDR_SIZE]);
    }
  });
});

test('the second walk changes only what QEMU judges earlier than the hardware', () => {
  const { F_TRANSLATION, F_ADDR_SIZE, F_ACCESS, F_PERMISSION, F_WALK_EABT } = EVENT;
  const codes = [F_TRANSLATION, F_ADDR_SIZE, F_ACCESS, F_PERMISSION, F_WALK_EABT];
  const changed = (permissionAtTable: boolean, leafSizeLast: boolean) =>
    codes.flatMap((hw) =>
      codes.flatMap((walked) => {
        const said = qemuFirstFault({ permissionAtTable, leafSizeLast }, hw, walked);
        return said === hw ? [] : [[hw, walked, said]];
      }),
    );

  expect(changed(false, false)).toEqual([]);
  expect(changed(false, true)).toEqual([
    [F_ADDR_SIZE, F_ACCESS, F_ACCESS],
    [F_ADDR_SIZE, F_PERMISSION, F_PERMISSION],
  ]);
  expect(changed(true, false)).toEqual(
    [F_TRANSLATION, F_ADDR_SIZE, F_ACCESS, F_WALK_EABT].map((hw) => [hw, F_PERMISSION, F_PERMISSION]),
  );
});
