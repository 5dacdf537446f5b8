import { expect, test } from 'vitest';
import { Smmuv3Driver } from '../../../src/host/drivers/smmuv3/driver.ts';
import { HostKernel } from '../../../src/host/kernel/kernel.ts';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { HostMemory } from '../../../src/lib/memory/host-memory.ts';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import { CR0, PAGE0, PAGE1, PAGE1_BASE } from '../../../src/spec/smmuv3/registers.ts';
import { FakeHw, identity } from './bench.ts';

const NAMES = new Map<number, string>([
  ...Object.entries(PAGE0).map(([name, r]) => [r.at, name] as const),
  ...Object.entries(PAGE1).map(([name, r]) => [PAGE1_BASE + r.at, name] as const),
]);

/** Notes what is written, between the commands. */
class Watched extends FakeHw {
  readonly story: string[] = [];

  override writeRegister(offset: number, value: bigint): void {
    super.writeRegister(offset, value);
    const name = NAMES.get(offset)!;
    this.story.push(name === 'CR0' || name === 'IRQ_CTRL' ? `${name}=${value.toString(16)}` : name);
  }

  override submit(words: Int32Array, start: number, count: number): void {
    super.submit(words, start, count);
    this.story.push(this.ops());
  }
}

function start(make: (memory: HostMemory) => FakeHw) {
  const memory = new HostMemory();
  const hw = make(memory);
  const kernel = new HostKernel({ memory, clock: new VirtualClock() });
  const driver = new Smmuv3Driver({ name: 'smmu', hw, memory });
  return { hw, driver, add: () => kernel.addIommu(driver) };
}

test('the driver programs its SMMU: off, tables, command queue, nothing cached, event and PRI queue, interrupts, translation', () => {
  const { hw, driver, add } = start((m) => new Watched(m, identity([0, 1 << 16, 1 << 16])));
  add();
  expect((hw as Watched).story).toEqual([
    'CR0=0',
    'CR1',
    'CR2',
    'STRTAB_BASE',
    'STRTAB_BASE_CFG',
    'CMDQ_BASE',
    'CMDQ_PROD',
    'CMDQ_CONS',
    'CR0=8',
    'CFGI_STE_RANGE TLBI_NSNH_ALL |',
    'EVENTQ_BASE',
    'EVENTQ_PROD',
    'EVENTQ_CONS',
    'CR0=c',
    'PRIQ_BASE',
    'PRIQ_PROD',
    'PRIQ_CONS',
    'CR0=e',
    'CR0=1e',
    'IRQ_CTRL=0',
    'IRQ_CTRL=7',
    'CR0=1f',
  ]);
  const { base, config } = driver.streamTable;
  expect(hw.readRegister(PAGE0.STRTAB_BASE.at) & 0xf_ffff_ffff_ffc0n).toBe(BigInt(base));
  expect(Number(hw.readRegister(PAGE0.STRTAB_BASE_CFG.at))).toBe(config);
});

test('an SMMU without ATS and PRI is not asked to check or queue anything of theirs', () => {
  const { hw, add } = start((m) => new Watched(m, identity([0, 1 << 10, 0])));
  add();
  expect(Number(hw.readRegister(PAGE0.CR0.at))).toBe(CR0.SMMUEN | CR0.EVENTQEN | CR0.CMDQEN);
  expect((hw as Watched).story.filter((s) => s.startsWith('PRIQ'))).toEqual([]);
});

test('an SMMU that does not acknowledge is ETIMEDOUT, one that refuses its first commands EIO', () => {
  class Deaf extends FakeHw {
    override readRegister(offset: number): bigint {
      return offset === PAGE0.CR0ACK.at ? 0n : super.readRegister(offset);
    }
  }
  expect(start((m) => new Deaf(m)).add).toThrow(expect.objectContaining({ code: 'ETIMEDOUT', blame: 'host' }));
  const { hw, add } = start((m) => new FakeHw(m));
  hw.refuse = () => HW_ERROR.ILLEGAL;
  expect(add).toThrow(expect.objectContaining({ code: 'EIO', blame: 'host' }));
});
