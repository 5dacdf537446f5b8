import { expect, test } from 'vitest';
import { VtdDriver } from '../../../src/host/drivers/vtd/driver.ts';
import { HostKernel } from '../../../src/host/kernel/kernel.ts';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { HostMemory } from '../../../src/lib/memory/host-memory.ts';
import { PhysicalVtd } from '../../../src/piommu/vtd/device.ts';
import { FULL_CAP, FULL_ECAP } from '../../../src/piommu/vtd/options.ts';
import { HW_ERROR, type HwPort } from '../../../src/ports/hw.ts';
import { decodeInvalidation } from '../../../src/spec/vtd/invalidation.ts';
import { GCMD, PAGE } from '../../../src/spec/vtd/registers.ts';

const NAMES = new Map<number, string>(Object.entries(PAGE).map(([name, r]) => [r.at, name]));

/** A real unit whose registers and queue are watched. */
class Watched implements HwPort {
  readonly story: string[] = [];
  readonly unit: PhysicalVtd;
  /** Answers GSTS instead of the unit; null: the unit does. */
  status: bigint | null = null;
  refuses = false;

  constructor(memory: HostMemory) {
    this.unit = new PhysicalVtd({ memory: memory.space, cap: FULL_CAP, ecap: FULL_ECAP });
  }

  readRegister(offset: number): bigint {
    return offset === PAGE.GSTS.at && this.status !== null ? this.status : this.unit.readRegister(offset);
  }

  writeRegister(offset: number, value: bigint): void {
    this.unit.writeRegister(offset, value);
    const name = NAMES.get(offset)!;
    const bits = Object.entries(GCMD).filter(([, bit]) => (Number(value) & bit) !== 0);
    this.story.push(name === 'GCMD' ? `GCMD ${bits.map(([b]) => b).join('+')}` : name);
  }

  writeEntry(table: number, entry: number, word: number, lo: number, hi: number): void {
    this.unit.writeEntry(table, entry, word, lo, hi);
  }

  submit(words: Int32Array, start: number, count: number): void {
    this.unit.submit(words, start, count);
    for (let i = 0; i < count; i++) this.story.push(decodeInvalidation(words, start + 8 * i).op);
  }

  get done(): number {
    return this.refuses ? 0 : this.unit.done;
  }
  get error(): number {
    return this.refuses ? HW_ERROR.ILLEGAL : this.unit.error;
  }
  get pending(): number {
    return this.unit.pending;
  }
}

function start() {
  const memory = new HostMemory();
  const hw = new Watched(memory);
  const kernel = new HostKernel({ memory, clock: new VirtualClock() });
  return { hw, add: () => kernel.addIommu(new VtdDriver({ name: 'vtd', hw, memory })) };
}

test('the driver programs its unit: queue, root table, nothing cached, page requests and interrupts, translation', () => {
  const { hw, add } = start();
  add();
  expect(hw.story).toEqual([
    'IQT',
    'IQA',
    'GCMD QIE',
    'RTADDR',
    'GCMD SRTP+QIE',
    'context-cache',
    'pasid-cache',
    'iotlb',
    'PQH',
    'PQT',
    'PECTL',
    'FECTL',
    'GCMD TE+QIE',
  ]);
});

test('a unit that does not acknowledge is ETIMEDOUT, one that refuses its first descriptors EIO', () => {
  const silent = start();
  silent.hw.status = 0n;
  expect(silent.add).toThrow(expect.objectContaining({ code: 'ETIMEDOUT', blame: 'host' }));
  const stubborn = start();
  stubborn.hw.refuses = true;
  expect(stubborn.add).toThrow(expect.objectContaining({ code: 'EIO', blame: 'host' }));
});
