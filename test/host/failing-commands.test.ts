import { describe, expect, test } from 'vitest';
import { Smmuv3Driver } from '../../src/host/drivers/smmuv3/driver.ts';
import { VtdDriver } from '../../src/host/drivers/vtd/driver.ts';
import type { KernelDevice } from '../../src/host/kernel/device.ts';
import type { IommuDriver, PagingDomain } from '../../src/host/kernel/driver.ts';
import { HostKernel } from '../../src/host/kernel/kernel.ts';
import { VirtualClock } from '../../src/lib/clock/virtual-clock.ts';
import { FaultyHw } from '../../src/lib/inject/faulty-hw.ts';
import { HostMemory } from '../../src/lib/memory/host-memory.ts';
import { HwRelay } from '../../src/machine/hw-relay.ts';
import { PhysicalSmmuv3 } from '../../src/piommu/smmuv3/device.ts';
import { PhysicalVtd } from '../../src/piommu/vtd/device.ts';
import { FULL_CAP, FULL_ECAP } from '../../src/piommu/vtd/options.ts';
import { ACCESS, AT, DMA, NO_PASID, type TranslatePort } from '../../src/ports/dma.ts';
import { HW_ERROR } from '../../src/ports/hw.ts';
import { HWPT_FLAG } from '../../src/spec/iommufd/uapi.ts';
import { OP } from '../../src/spec/smmuv3/commands.ts';

const RID = 8;
const PASID = 5;
const PAGE = 0x5000;
/** Host-physical places of pages. */
const [FIRST, SECOND, THIRD] = [0x80_0000_0000, 0x80_0010_0000, 0x80_0020_0000];

interface Host {
  readonly kernel: HostKernel;
  readonly faulty: FaultyHw;
  readonly hw: TranslatePort;
  readonly driver: IommuDriver;
  readonly memory: HostMemory;
  /** Whether a command only forgets a tag that nothing uses any more: the driver itself tries it again before it is used. */
  forgetsUnused(op: number): boolean;
}

function smmuv3(): Host {
  const memory = new HostMemory();
  const kernel = new HostKernel({ memory, clock: new VirtualClock() });
  const events = new HwRelay();
  const ids = { idr0: 0x0d4c_141b, idr1: 0x0273_0010 | (16 << 6), idr3: 0x1414, idr5: 0x74 };
  const hw = new PhysicalSmmuv3({ memory: memory.space, ...ids, events, clock: kernel.clock });
  const faulty = new FaultyHw(hw);
  const driver = new Smmuv3Driver({ name: 'smmu', hw: faulty, memory });
  kernel.addIommu(driver);
  events.to = driver.events;
  const forgetsUnused = (op: number) => op === OP.TLBI_S12_VMALL || op === OP.TLBI_NH_ASID;
  return { kernel, faulty, hw, driver, memory, forgetsUnused };
}

function vtd(cap: bigint): Host {
  const memory = new HostMemory();
  const kernel = new HostKernel({ memory, clock: new VirtualClock() });
  const events = new HwRelay();
  const hw = new PhysicalVtd({ memory: memory.space, cap, ecap: FULL_ECAP, events, clock: kernel.clock });
  const faulty = new FaultyHw(hw, { commandWords: 8 });
  const driver = new VtdDriver({ name: 'vtd', hw: faulty, memory });
  kernel.addIommu(driver);
  events.to = driver.events;
  return { kernel, faulty, hw, driver, memory, forgetsUnused: () => false };
}

function domain(h: Host, dev: KernelDevice, flags: number, hpa: number): PagingDomain {
  const d = h.driver.allocPaging(dev, flags, null);
  if (typeof d === 'number') throw new Error(`errno ${d}`);
  expect(d.map(BigInt(PAGE), hpa, 4096, 3)).toBe(0);
  return d;
}

/**
 * A program's life, each step tried again until it succeeds, with command number `n` failing.
 * @returns the step during which the command failed ('': there was no such command), its opcode, and how often the program
 *   was told.
 */
function live(h: Host, n: number, error: number): { readonly hit: string; readonly op: number; readonly told: number } {
  const dev = h.kernel.addDevice({ name: 'nic', streams: [RID], iommu: h.driver, pasidBits: 16 });
  const parent = HWPT_FLAG.NEST_PARENT;
  const a = domain(h, dev, parent, FIRST);
  const b = domain(h, dev, parent, SECOND);
  const own = domain(h, dev, HWPT_FLAG.PASID, THIRD);
  let step = '';
  let hit = '';
  let op = 0;
  let told = 0;
  let count = 0;
  h.faulty.inject({
    match: (words, at) => {
      if (count++ !== n) return false;
      hit = step;
      op = words[at]! & 0xff;
      return true;
    },
    error,
  });
  const dma = (pasid: number = NO_PASID): number | 'ABORT' => {
    const r = h.hw.translate(RID, pasid, PAGE, 0, ACCESS.READ, AT.UNTRANSLATED);
    return r === DMA.OK ? h.hw.out : 'ABORT';
  };
  const until = (name: string, action: () => number): void => {
    step = name;
    for (let tries = 0; tries < 4; tries++) {
      const r = action();
      if (r === 0) return;
      expect(r).toBeLessThan(0);
      told++;
    }
    throw new Error(`${name} does not heal`);
  };
  const unmap = (d: PagingDomain): number => {
    const r = d.unmap(BigInt(PAGE), 4096n);
    return r < 0n ? Number(r) : 0;
  };
  until('attach', () => dev.group.setDomain(a));
  expect(dma()).toBe(FIRST);
  until('unmap', () => unmap(a));
  expect(dma()).toBe('ABORT');
  until('map', () => a.map(BigInt(PAGE), THIRD, 4096, 3));
  expect(dma()).toBe(THIRD);
  until('replace', () => dev.group.setDomain(b));
  expect(dma()).toBe(SECOND);
  until('own domain', () => dev.group.setDomain(own));
  expect(dma()).toBe(THIRD);
  until('PASID', () => dev.group.setPasid(own, PASID, false));
  expect([dma(), dma(PASID)]).toEqual([THIRD, THIRD]);
  until('unmap under both', () => unmap(own));
  expect([dma(), dma(PASID)]).toEqual(['ABORT', 'ABORT']);
  step = 'detach';
  dev.group.clearPasid(PASID);
  dev.group.block(h.driver.blocked);
  if (hit !== 'detach') expect([dma(), dma(PASID)]).toEqual(['ABORT', 'ABORT']);
  step = 'free';
  for (const d of [a, b, own]) d.free();
  return { hit, op, told };
}

describe.each([
  ['SMMUv3', smmuv3],
  ['VT-d', () => vtd(FULL_CAP)],
  ['VT-d in caching mode', () => vtd(FULL_CAP | (1n << 7n))],
] as const)('%s: whichever command of the kernel fails', (_name, make) => {
  test('the program is told, and what it then repeats heals it', () => {
    let last = 0;
    for (let n = 0; ; n++) {
      const h = make();
      const before = h.memory.pagesUsed;
      const { hit, op, told } = live(h, n, HW_ERROR.ILLEGAL);
      last = n;
      if (hit === '') break;
      // Nobody waits for an answer while a device is detached or tables are freed: what is not confirmed is never used again.
      const silent = hit === 'detach' || hit === 'free' || h.forgetsUnused(op);
      if (!silent) expect([n, hit, told]).toEqual([n, hit, 1]);
      expect(h.memory.pagesUsed).toBeGreaterThanOrEqual(before);
    }
    expect(last).toBeGreaterThan(10);
  });
});
