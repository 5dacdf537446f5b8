import { describe, expect, test } from 'vitest';
import { PasidSpace } from '../../../src/lib/pasid/pasid-space.ts';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { ENQUEUE } from '../../../src/machine/pasid/cpu-pasid-table.ts';
import { PasidLayer } from '../../../src/machine/pasid/pasid-layer.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { DATA, dataOf, fill, Intel } from './intel.ts';

const ALLOC = 1n;
const FREE = (pasid: number) => 2n | (BigInt(pasid) << 16n);
const PATTERN = 0x1234_5678;

function shared(o: ConstructorParameters<typeof Intel>[0] = {}) {
  const g = new Intel(o);
  g.boot(0x10, 0x18);
  const card = g.accelerator(0x10, 'global');
  const enqcmd = (local: number, pattern = PATTERN) => g.layer.cpu.enqcmd(card.accelerator, 0, fill(pattern), local);
  return { g, card, enqcmd };
}

describe('a guest with a shared work queue', () => {
  test('allocates a PASID by VCMD, sets it up, and reaches one address space by ENQCMD and by the dedicated queue', () => {
    const { g, card, enqcmd } = shared();
    const [status, local] = g.vcmd(ALLOC);
    expect([status, local]).toEqual([0, 1]);
    expect(enqcmd(local)).toBe(ENQUEUE.UNTRANSLATED);

    g.setPasid(local, 0);
    expect(g.layer.cpu.entries).toEqual([[1, 0x1000]]);
    expect(enqcmd(local)).toBe(ENQUEUE.ACCEPTED);
    expect(g.load32(dataOf(0))).toBe(PATTERN);
    expect(g.load32(dataOf(0) + 0x1000)).toBe(1);

    card.pasid = local;
    card.movdir64b(fill(7));
    expect(g.load32(dataOf(0))).toBe(7);
    // The shared queue sent the twin, the dedicated one the local value.
    expect([...card.wire.seen]).toEqual([0x1000, 1]);
  });

  test('every operation on the local PASID applies to its twin: replace, invalidate, take away', () => {
    const { g, enqcmd } = shared();
    const [, local] = g.vcmd(ALLOC);
    g.setPasid(local, 0);
    enqcmd(local);
    g.setPasid(local, 1);
    enqcmd(local, 2);
    expect([g.load32(dataOf(0)), g.load32(dataOf(1))]).toEqual([PATTERN, 2]);

    // The guest moves a page and invalidates it under the local name.
    const leaf = g.space(1) + 0x3000 + 8 * (DATA >>> 12);
    g.store(leaf, BigInt(dataOf(3)) | 7n);
    g.submit(6n | (3n << 4n) | (6n << 16n) | (BigInt(local) << 32n), BigInt(DATA));
    enqcmd(local, 3);
    expect([g.load32(dataOf(1)), g.load32(dataOf(3))]).toEqual([2, 3]);

    g.setPasid(local, -1);
    expect(g.layer.cpu.entries).toEqual([]);
    expect([g.dma(0x10, local, DATA), g.dma(0x10, 0x1000, DATA)]).toEqual([-1, -1]);
    expect(enqcmd(local)).toBe(ENQUEUE.UNTRANSLATED);
  });

  test('the split is where it was configured: local PASIDs below, twins from there on, and none beyond the pool', () => {
    const layer = new PasidLayer(new PasidSpace(0x80, 0x82));
    const { g } = shared({ layer });
    for (let local = 1; local <= 3; local++) {
      expect(g.vcmd(ALLOC)).toEqual([0, local]);
      g.setPasid(local, local);
    }
    expect(layer.cpu.entries).toEqual([
      [1, 0x80],
      [2, 0x81],
    ]);
    // The third has no twin to be had, so it is not set up at all.
    expect(g.dma(0x10, 3, DATA)).toBe(-1);
    expect(g.dma(0x10, 2, DATA)).toBe(dataOf(2));
  });

  test('one RID of a VM is in the global pool, another is not', () => {
    const { g } = shared();
    g.accelerator(0x18, 'host-table');
    g.setPasid(3, 0);
    expect(g.unit.device.hostPasids(0x10, 3)).toEqual([3, 0x1000]);
    expect(g.unit.device.hostPasids(0x18, 3)).toEqual([3]);
    expect([g.dma(0x18, 3, DATA), g.dma(0x18, 0x1000, DATA)]).toEqual([dataOf(0), -1]);
  });

  test('two RIDs with the same local PASID share its twin: the processor has one table', () => {
    const { g } = shared();
    const other = g.accelerator(0x18, 'global');
    g.setPasid(3, 0);
    expect(g.layer.cpu.entries).toEqual([[3, 0x1000]]);
    expect(g.layer.cpu.enqcmd(other.accelerator, 0, fill(9), 3)).toBe(ENQUEUE.ACCEPTED);
    expect(g.load32(dataOf(0))).toBe(9);
  });
});

test('a migration changes every global PASID, and the guest notices nothing', () => {
  const { g } = shared();
  const locals = [g.vcmd(ALLOC)[1], g.vcmd(ALLOC)[1]];
  for (const [i, local] of locals.entries()) g.setPasid(local, i);
  const state = JSON.parse(JSON.stringify(g.unit.save()));
  const before = g.layer.cpu.entries;

  // The destination: another host, whose pool is partly in use. Memory arrives first, then the device's state.
  const layer = new PasidLayer(new PasidSpace(0x4000, 0x4100));
  layer.space.open().allocate();
  const there = new Intel({ layer });
  const ram = new Uint8Array(0x100_0000);
  g.vm.memory.guest.readBytes(0, ram);
  there.vm.memory.guest.writeBytes(0, ram);
  const card = there.accelerator(0x10, 'global');
  there.unit.load(state);

  for (const [i, local] of locals.entries()) {
    // The local PASID is set up on its first use, as after any move.
    expect(there.dma(0x10, local, DATA)).toBe(dataOf(i));
    expect(layer.cpu.enqcmd(card.accelerator, 0, fill(100 + i), local)).toBe(ENQUEUE.ACCEPTED);
    expect(there.load32(dataOf(i))).toBe(100 + i);
  }
  const after = layer.cpu.entries;
  expect(after.map(([local]) => local)).toEqual(before.map(([local]) => local));
  for (const [, global] of after) expect(before.map(([, old]) => old)).not.toContain(global);
  // The guest's allocator goes on where it was.
  expect(there.vcmd(ALLOC)).toEqual([0, 3]);
  expect(there.vcmd(FREE(locals[0]!))[0]).toBe(0);
});

describe('a slice of a parent function', () => {
  test('is a device of its own whose PASIDs are virtual: the real one goes into the register', () => {
    const g = new Intel();
    g.boot(0x10, 0x18);
    const parent = g.unit.addFunction([0x99], [hostRid(0x99)], { name: 'parent', pasidBits: 20 });
    const [one, two] = [40, 41];
    const away = [g.unit.addSlice(0x10, parent, one), g.unit.addSlice(0x18, parent, two)];
    const cards = [one, two].map((own) => g.card(hostRid(0x99), own));
    // The same guest PASID on both, in address spaces of their own directory.
    g.setPasid(3, 0);
    const real = [0x10, 0x18].map((rid) => g.unit.device.hostPasids(rid, 3)[0]!);
    expect(real[0]).not.toBe(real[1]);
    for (const r of real) expect(r).toBeGreaterThanOrEqual(0x1000);

    // The guest programs its PASID register; the mediator writes the real value.
    cards.forEach((card, i) => {
      card.pasid = g.unit.device.hostPasids([0x10, 0x18][i]!, 3)[0]!;
      card.movdir64b(fill(50 + i));
      expect(g.load32(dataOf(0))).toBe(50 + i);
    });
    expect(cards.map((c) => [...c.wire.seen])).toEqual([[real[0]], [real[1]]]);

    // The virtual value itself reaches nothing on the parent.
    expect(g.dma(0x99, 3, DATA)).toBe(-1);
    for (const slice of away) slice.remove();
    for (const r of real) expect(g.dma(0x99, r, DATA)).toBe(-1);
  });
});

describe('a guest that chooses PASIDs in a table the host owns', () => {
  test('is heard through its PASID-cache invalidation, and each (device, PASID) has one page table', () => {
    const g = new Intel();
    g.boot(0x10);
    g.accelerator(0x10);
    g.hostOps(true);
    g.setPasid(5, 0);
    g.setPasid(6, 1);
    const ops = g.hostOps(true);
    expect([ops.HWPT_ALLOC, ops.ATTACH]).toEqual([3, 2]);
    expect([5, 6, 7].map((p) => g.dma(0x10, p, DATA))).toEqual([dataOf(0), dataOf(1), -1]);
    expect(g.layer.cpu.entries).toEqual([]);
    expect(g.dma(0x10, NO_PASID, DATA)).toBe(-1);
  });
});
