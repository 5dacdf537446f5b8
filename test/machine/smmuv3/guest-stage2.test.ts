import { describe, expect, test } from 'vitest';
import { ACCESS } from '../../../src/ports/dma.ts';
import { CD, cfgiSte, RAM, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, type RigOptions, space } from './rig.ts';

const S2_L1 = 0x4060_0000;
const S2_L2 = 0x4061_0000;
const S2_L3 = 0x4062_0000;
const S2_WORDS = [0n, 0x040c_0059_0000_0007n, BigInt(S2_L1)] as const;
const EVENTQ_PROD = 0x100a8;
const OFF = 0x1_0000_0000;

const s2Ipa = (ipa: number, vmid = 7) => [(BigInt(vmid) << 32n) | 0x2an, ipa] as const;

/** A guest with its own stage 2 (VMID 7): 2 MiB at IPA 0 by pages, the next 2 MiB by one block. */
function owner(o: RigOptions = {}) {
  const rig = new Rig(o);
  const { g } = rig;
  rig.plug(8);
  g.put(S2_L1, BigInt(S2_L2) | 3n);
  g.put(S2_L2, BigInt(S2_L3) | 3n, 0x4080_04fdn);
  g.put(S2_L3 + 8 * 5, 0x4040_54ffn); // read-write
  g.put(S2_L3 + 8 * 6, 0x4040_647fn); // read-only
  g.put(S2_L3 + 8 * 7, 0x4040_74bfn); // write-only
  g.ste(8, 0xdn, ...S2_WORDS);
  g.setUp(5);
  g.run(cfgiSte(8), sync);
  return { rig, g };
}

describe('a guest that uses stage 2 alone', () => {
  test('reaches what its tables map, by page and by block, with the permissions they give', () => {
    const { rig } = owner();
    expect(rig.dma(8, 0x5123)).toBe(0x4040_5123);
    expect(rig.dma(8, 0x20_0000 + 0x1_2344)).toBe(0x4081_2344);
    expect(rig.dma(8, 0x6000, ACCESS.READ)).toBe(0x4040_6000);
    expect(rig.dma(8, 0x6000, ACCESS.WRITE)).toBe('ABORT');
    expect(rig.dma(8, 0x7000, ACCESS.WRITE)).toBe(0x4040_7000);
    expect(rig.dma(8, 0x7000, ACCESS.READ)).toBe('ABORT');
    expect(rig.dma(8, 0x8000)).toBe('ABORT');
  });

  test('is told of each refusal as a stage-2 fault with the address', () => {
    const { rig, g } = owner({ properties: { profile: 'arch' } });
    rig.dma(8, 0x6000, ACCESS.WRITE);
    rig.dma(8, 0x8004, ACCESS.READ);
    expect(g.r(EVENTQ_PROD)).toBe(2);
    expect(g.event(0)).toEqual([0x8_0000_0013n, 0x280_0000_0000n, 0x6000n, 0x6000n]);
    expect(g.event(1)).toEqual([0x8_0000_0010n, 0x288_0000_0000n, 0x8004n, 0x8000n]);
  });

  test('sees a change of its tables after the invalidation that names it, and no sooner', () => {
    const { rig, g } = owner();
    expect(rig.dma(8, 0x5000)).toBe(0x4040_5000);
    g.put(S2_L3 + 8 * 5, 0x4050_04ffn);
    expect(rig.dma(8, 0x5000)).toBe(0x4040_5000);
    g.run(s2Ipa(0x6000), s2Ipa(0x5000, 8), sync);
    expect(rig.dma(8, 0x5000)).toBe(0x4040_5000);
    g.run(s2Ipa(0x5000), sync);
    expect(rig.dma(8, 0x5000)).toBe(0x4050_0000);
    for (const all of [[0x7_0000_0028n, 0] as const, [0x30, 0] as const]) {
      g.put(S2_L3 + 8 * 5, 0n);
      g.run(all, sync);
      expect(rig.dma(8, 0x5000)).toBe('ABORT');
      g.put(S2_L3 + 8 * 5, 0x4040_54ffn);
      g.run(all, sync);
      expect(rig.dma(8, 0x5000)).toBe(0x4040_5000);
    }
  });

  test('what becomes mapped needs no invalidation, and a block that is replaced by pages needs one', () => {
    const { rig, g } = owner();
    expect(rig.dma(8, 0x9000)).toBe('ABORT');
    g.put(S2_L3 + 8 * 9, 0x4040_94ffn);
    expect(rig.dma(8, 0x9000)).toBe(0x4040_9000);
    expect(rig.dma(8, 0x20_0000)).toBe(0x4080_0000);
    expect(rig.dma(8, 0x3f_f000)).toBe(0x409f_f000);
    g.put(S2_L2 + 8, 0n);
    g.run(s2Ipa(0x2a_0000), sync);
    g.put(S2_L2 + 8, BigInt(S2_L3) | 3n);
    expect(rig.dma(8, 0x20_5000)).toBe(0x4040_5000);
    expect(rig.dma(8, 0x3f_f000)).toBe('ABORT');
  });

  test('memory that is unplugged leaves the shadow too, memory that cannot be written is readable through it', () => {
    const { rig, g } = owner();
    const far = RAM + 0x1000_0000;
    const unplug = rig.vm.addRam(far, 0x10_0000);
    rig.vm.addRam(far + 0x1000_0000, 0x1000, undefined, false);
    g.put(S2_L3 + 8 * 9, BigInt(far + 0x3000) | 0x4ffn);
    g.put(S2_L3 + 8 * 10, BigInt(far + 0x1000_0000) | 0x4ffn);
    expect(rig.dma(8, 0x9000)).toBe(far + 0x3000);
    expect(rig.dma(8, 0xa000, ACCESS.READ)).toBe(far + 0x1000_0000);
    expect(rig.dma(8, 0xa000, ACCESS.WRITE)).toBe('ABORT');
    expect(rig.dma(8, 0xa000, ACCESS.READ)).toBe(far + 0x1000_0000);
    unplug();
    expect(rig.dma(8, 0x9000)).toBe('ABORT');
    expect(rig.dma(8, 0x5000)).toBe(0x4040_5000);
  });

  test('what is no RAM is reached through it as well: the doorbell, in the place of a page and beside pages, until it is named', () => {
    const { rig, g } = owner();
    const door = 0x0809_0000;
    expect(rig.dma(8, 0x9000)).toBe('ABORT');
    g.put(S2_L3 + 8 * 9, BigInt(door) | 0x4ffn);
    expect([rig.dma(8, 0x9040), rig.dma(8, 0x5000)]).toEqual([door + 0x40, 0x4040_5000]);
    g.put(S2_L3 + 8 * 9, 0x4040_94ffn);
    expect(rig.dma(8, 0x9040)).toBe(door + 0x40);
    g.run(s2Ipa(0x5000), sync);
    expect(rig.dma(8, 0x9040)).toBe(door + 0x40);
    for (const named of [s2Ipa(0x9000), [0x7_0000_0028n, 0] as const]) {
      g.run(named, sync);
      expect(rig.dma(8, 0x9000)).toBe(0x4040_9000);
      g.put(S2_L3 + 8 * 9, BigInt(door) | 0x4ffn);
      g.run(named, sync);
      expect([rig.dma(8, 0x9040), rig.dma(8, 0x5000)]).toEqual([door + 0x40, 0x4040_5000]);
      g.put(S2_L3 + 8 * 9, 0x4040_94ffn);
    }
  });

  test('two streams with one stage 2 share its shadow; another VMID has its own', () => {
    const { rig, g } = owner();
    rig.plug(16);
    g.ste(16, 0xdn, ...S2_WORDS);
    g.run(cfgiSte(16), sync);
    const [a, b] = rig.units[0]!.device.streams;
    expect(a!.domain).toBe(b!.domain);
    g.ste(16, 0xdn, 0n, 0x040c_0059_0000_0009n, BigInt(S2_L1));
    g.run(cfgiSte(16), sync);
    expect(b!.domain).not.toBe(a!.domain);
    expect([8, 16].map((sid) => rig.dma(sid, 0x5000))).toEqual([0x4040_5000, 0x4040_5000]);
    g.put(S2_L3 + 8 * 5, 0x4050_04ffn);
    g.run(s2Ipa(0x5000, 9), sync);
    expect([8, 16].map((sid) => rig.dma(sid, 0x5000))).toEqual([0x4040_5000, 0x4050_0000]);
  });
});

describe('a guest that nests its own stage 1 in its own stage 2', () => {
  /** Everything at IPA = PA + 4 GiB. */
  function nested(o: RigOptions = {}) {
    const rig = new Rig(o);
    const { g } = rig;
    rig.plug(8);
    const { tables } = space(g, 0, 0x11);
    tables.map(0x5000, OFF + 0x4040_5000);
    // Its descriptors point to IPAs: level by level, one GiB block of stage 2 carries them back.
    const l2 = Number(g.get(tables.root) & 0xf_ffff_ffff_f000n);
    g.put(tables.root, BigInt(l2 + OFF) | 3n);
    const l3 = Number(g.get(l2) & 0xf_ffff_ffff_f000n);
    g.put(l2, BigInt(l3 + OFF) | 3n);
    g.put(CD, 0x0011_6204_c000_0019n, BigInt(tables.root + OFF));
    g.put(S2_L1 + 8 * 5, BigInt(RAM) | 0x4fdn);
    g.ste(8, BigInt(CD + OFF) | 0xfn, ...S2_WORDS);
    g.setUp(5);
    g.run(cfgiSte(8), sync);
    return { rig, g, l3 };
  }

  test('reaches memory through both, tables and CD included', () => {
    const { rig } = nested();
    expect(rig.dma(8, 0x5678)).toBe(0x4040_5678);
    expect(rig.dma(8, 0x6000)).toBe('ABORT');
  });

  test('a stage-1 change needs a stage-1 invalidation of its VMID, a stage-2 change one of stage 2', () => {
    const { rig, g, l3 } = nested();
    expect(rig.dma(8, 0x5000)).toBe(0x4040_5000);
    g.put(l3 + 8 * 5, BigInt(OFF + 0x4041_0000) | 0x443n);
    g.run([0x11_0009_0000_0012n, 0x5000], sync);
    expect(rig.dma(8, 0x5000), 'another VMID').toBe(0x4040_5000);
    g.run([0x11_0007_0000_0012n, 0x5000], sync);
    expect(rig.dma(8, 0x5000)).toBe(0x4041_0000);
    g.put(S2_L1 + 8 * 5, 0n);
    g.run(s2Ipa(OFF + RAM), [0x7_0000_0010n, 0], sync);
    expect(rig.dma(8, 0x5000)).toBe('ABORT');
  });

  test('a missing stage 2 under the CD is a stage-2 fault of class CD', () => {
    const { rig, g } = nested({ properties: { profile: 'arch' } });
    g.put(S2_L1 + 8 * 5, 0n);
    g.run(s2Ipa(OFF + RAM), [(8n << 32n) | 6n, 0], [0x30, 0], sync);
    expect(rig.dma(8, 0x5000)).toBe('ABORT');
    expect(g.event(0)).toEqual([0x8_0000_0010n, 0x80_0000_0000n, 0x5000n, BigInt(CD + OFF)]);
  });
});

describe('linux-only: what the guest loses without upcalls', () => {
  test('its own stage 2', () => {
    const rig = new Rig({ linuxOnly: true });
    const { g } = rig;
    rig.plug(8);
    g.ste(8, 0xdn, ...S2_WORDS);
    g.setUp();
    expect(g.run(cfgiSte(8), sync)).toBe(0x0100_0000);
    expect(rig.dma(8, 0x5000)).toBe('ABORT');
  });

  test('configuration on first use; faults of its stage 1 still reach it, through the kernel’s event queue', () => {
    const rig = new Rig({ linuxOnly: true });
    const { g } = rig;
    const { tables, ste } = space(g, 0, 0x11);
    tables.map(0x5000, 0x4040_5000);
    rig.plug(8);
    g.setUp();
    g.ste(8, ste);
    expect(rig.dma(8, 0x5000), 'no command has named the stream').toBe('ABORT');
    g.run(cfgiSte(8), sync);
    expect(rig.dma(8, 0x5000)).toBe(0x4040_5000);
    expect(rig.dma(8, 0x9000)).toBe('ABORT');
    expect(g.r(EVENTQ_PROD)).toBe(1);
    expect(g.event(0)).toEqual([0x8_0000_0010n, 0x200_0000_0000n, 0x9000n, 0n]);
  });

  test('records of its own fetch errors, and of entries that are bad', () => {
    const rig = new Rig({ linuxOnly: true });
    const { g } = rig;
    rig.plug(8);
    g.ste(8, 0x800_0000_000bn);
    g.setUp();
    g.run(cfgiSte(8), sync);
    expect(rig.dma(8, 0x5000)).toBe('ABORT');
    g.ste(8, 0n);
    g.run(cfgiSte(8), sync);
    expect(rig.dma(8, 0x5000)).toBe('ABORT');
    expect(g.r(EVENTQ_PROD)).toBe(0);
  });
});
