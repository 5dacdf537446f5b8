import { describe, expect, test } from 'vitest';
import { NO_PASID } from '../../src/ports/dma.ts';
import { KINDS, probe, RAM, Rig } from './plugged/rig.ts';

/** Verbs one access of the guest may make its host execute. */
const MOST_VERBS = 400;
const FUNCTIONS = 220;
// CR0, CR0ACK, GBPA; GCMD, GSTS.
const CR0 = 0x20;
const CR0ACK = 0x24;
const GBPA = 0x44;
const GCMD = 0x18;
const GSTS = 0x1c;

function verbs(rig: Rig): number {
  return rig.said.splice(0).filter((s) => s.what === 'host').length;
}

/** A machine with hundreds of functions that the guest has set up, all of them mapped to the same page. */
function crowded(kind: 'smmuv3' | 'vtd') {
  const rig = new Rig(kind);
  const functions = Array.from({ length: FUNCTIONS }, (_, i) => {
    const fn = probe({ name: `f${i}` });
    rig.plug(fn, 8 + i);
    return fn;
  });
  const synced = () => {
    for (let i = 0; i < 200 && !rig.guest.synced(); i++) rig.iommu.read(0, 4);
    expect(rig.guest.synced()).toBe(true);
  };
  synced();
  const [page] = rig.space(8);
  // The upper half of a bus has a context table of its own.
  rig.space(0x80);
  for (let rid = 9; rid < 8 + FUNCTIONS; rid++) {
    if (rid !== 0x80) rig.guest.share(rid, rid < 0x80 ? 8 : 0x80);
    synced();
  }
  for (const fn of functions) expect(rig.reaches(fn, page!)).toBe(true);
  return { rig, functions, page: page! };
}

/** Does `access`, then reads `register` until `mask` of it is `value`. @returns verbs of each of these accesses. */
function until(rig: Rig, access: () => void, register: number, mask: number, value: number): number[] {
  verbs(rig);
  access();
  const list = [verbs(rig)];
  while (list.length < 1000 && (rig.iommu.read(register, 4) & mask) !== value) list.push(verbs(rig));
  list.push(verbs(rig));
  return list;
}

describe('a switch of translation with hundreds of functions goes in parts', () => {
  test('SMMUEN: CR0ACK says so when it is so for all of them, and commands behind it wait', () => {
    const { rig, functions, page } = crowded('smmuv3');
    const { iommu } = rig;
    const before = rig.load(page);
    const off = until(rig, () => iommu.write(CR0, 4, 0x0e, 0), CR0ACK, 1, 0);
    expect(off.length).toBeGreaterThanOrEqual(3);
    expect(Math.max(...off)).toBeLessThan(MOST_VERBS);
    // Nobody translates any more: GBPA lets through what hits RAM, and VA is none.
    for (const fn of functions) expect(rig.reaches(fn, page)).toBe(false);
    expect(rig.load(page)).toBe(before);
    const abort = until(rig, () => iommu.write(GBPA, 4, 0x8010_0000 | 0, 0), GBPA, 0x8000_0000 | 0, 0);
    expect(Math.max(...abort)).toBeLessThan(MOST_VERBS);
    // On again, and a command in the same breath: it is executed behind the switch, so that each use is configured anew.
    const on = until(
      rig,
      () => {
        iommu.write(CR0, 4, 0x0f, 0);
        if ((iommu.read(CR0ACK, 4) & 1) === 0) expect(rig.guest.sync()).toBe(false);
      },
      CR0ACK,
      1,
      1,
    );
    expect(Math.max(...on)).toBeLessThan(MOST_VERBS);
    for (let i = 0; i < 100 && !rig.guest.synced(); i++);
    expect(rig.guest.synced()).toBe(true);
    for (const fn of functions) expect(rig.reaches(fn, page)).toBe(true);
    expect(rig.errors).toEqual([]);
  });

  test('SMMUEN that changes its mind in the middle ends as what was written last', () => {
    const { rig, functions, page } = crowded('smmuv3');
    rig.iommu.write(CR0, 4, 0x0e, 0);
    expect(rig.iommu.read(CR0ACK, 4) & 1).toBe(1);
    rig.iommu.write(CR0, 4, 0x0f, 0);
    for (let i = 0; i < 100; i++) rig.iommu.read(CR0ACK, 4);
    expect(rig.iommu.read(CR0ACK, 4) & 0xf).toBe(0xf);
    for (const fn of functions) expect(rig.reaches(fn, page)).toBe(true);
  });

  test('TE: GSTS says so when it is so for all of them', () => {
    const { rig, functions, page } = crowded('vtd');
    const { iommu } = rig;
    const off = until(rig, () => iommu.write(GCMD, 4, 0x0400_0000, 0), GSTS, 0x8000_0000 | 0, 0);
    expect(off.length).toBeGreaterThanOrEqual(3);
    expect(Math.max(...off)).toBeLessThan(MOST_VERBS);
    for (const fn of functions) expect(rig.reaches(fn, page)).toBe(false);
    const on = until(rig, () => iommu.write(GCMD, 4, 0x8400_0000 | 0, 0), GSTS, 0x8000_0000 | 0, 0x8000_0000 | 0);
    expect(Math.max(...on)).toBeLessThan(MOST_VERBS);
    for (const fn of functions) expect(rig.reaches(fn, page)).toBe(true);
  });

  test.each(KINDS)('a machine of a %s that is saved in the middle goes on as one that was not', (kind) => {
    const { rig, page } = crowded(kind);
    if (kind === 'smmuv3') rig.iommu.write(CR0, 4, 0x0e, 0);
    else rig.iommu.write(GCMD, 4, 0x0400_0000, 0);
    rig.machine.load(JSON.parse(JSON.stringify(rig.machine.save())) as ReturnType<typeof rig.machine.save>);
    const [at, bit] = kind === 'smmuv3' ? [CR0ACK, 1] : [GSTS, 0x8000_0000 | 0];
    for (let i = 0; i < 100 && (rig.iommu.read(at, 4) & bit) !== 0; i++);
    expect(rig.iommu.read(at, 4) & bit).toBe(0);
    expect(page).toBeGreaterThan(RAM);
  });
});

describe('completions that come at once', () => {
  test.each(KINDS)('do not let the queue of a %s run on: thousands of invalidations go in parts', (kind) => {
    const rig = new Rig(kind);
    const fn = probe({ ats: {} });
    rig.plug(fn, 8);
    rig.space(8, [NO_PASID]);
    const { guest } = rig.machine.vm.memory;
    const queue = RAM + 0x100_0000;
    const COUNT = 4000;
    const { iommu } = rig;
    if (kind === 'smmuv3') {
      for (let i = 0; i < COUNT; i++) {
        guest.store64(queue + 16 * i, 0x40, 8);
        guest.store64(queue + 16 * i + 8, 52, 0);
      }
      iommu.write(CR0, 4, 5, 0);
      iommu.write(0x90, 8, queue | 12, 0);
      iommu.write(0x98, 4, 0, 0);
      iommu.write(0x9c, 4, 0, 0);
      iommu.write(CR0, 4, 0xf, 0);
    } else {
      for (let i = 0; i < COUNT; i++) {
        guest.store64(queue + 32 * i, 3, 8);
        guest.store64(queue + 32 * i + 8, -0xfff, 0x7fff_ffff);
      }
      iommu.write(GCMD, 4, 0x8000_0000 | 0, 0);
      iommu.write(0x88, 4, 0, 0);
      iommu.write(0x90, 8, queue | 0x805, 0);
      iommu.write(GCMD, 4, 0x8400_0000 | 0, 0);
    }
    const head = kind === 'smmuv3' ? 0x9c : 0x80;
    const unit = kind === 'smmuv3' ? 1 : 32;
    iommu.write(kind === 'smmuv3' ? 0x98 : 0x88, 4, COUNT * unit, 0);
    const seen = [iommu.read(head, 4) / unit];
    while (seen.at(-1)! < COUNT && seen.length < 2000) seen.push(iommu.read(head, 4) / unit);
    expect(seen.at(-1)).toBe(COUNT);
    // Each is four units of 2,048.
    expect(seen.length).toBeGreaterThan(COUNT / 2048);
    expect(seen[0]).toBeLessThan(1500);
    expect(rig.errors).toEqual([]);
  });
});
