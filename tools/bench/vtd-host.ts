import { ViommuError } from '../../src/core/errors.ts';
import { VtdDriver } from '../../src/host/drivers/vtd/driver.ts';
import { HostKernel } from '../../src/host/kernel/kernel.ts';
import { VirtualClock } from '../../src/lib/clock/virtual-clock.ts';
import { ramBacking } from '../../src/lib/memory/address-space.ts';
import { HostMemory } from '../../src/lib/memory/host-memory.ts';
import { HwRelay } from '../../src/machine/hw-relay.ts';
import { PhysicalVtd } from '../../src/piommu/vtd/device.ts';
import { FULL_CAP, FULL_ECAP } from '../../src/piommu/vtd/options.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import { HWPT_DATA, HWPT_FLAG } from '../../src/spec/iommufd/uapi.ts';
import type { BenchCase, Prepared } from './case.ts';

const RAM = 0x100_0000;
const BATCH = 64;
/** Words of an iommu_hwpt_vtd_s1_invalidate. */
const ENTRY = 6;

function must<T>(r: T | number): T {
  if (typeof r === 'number') throw new ViommuError('EIO', 'host', 'the bench cannot be built', { errno: -r });
  return r;
}

/** A function whose ATC is empty and answers at once, behind a nested domain; with or without ATS. */
function invalidations(ats: boolean): Prepared {
  const memory = new HostMemory();
  const hpa = memory.place(0, RAM, ramBacking(RAM));
  const clock = new VirtualClock();
  const events = new HwRelay();
  let answered = 0;
  const endpoints = {
    invalidate(rid: number, _pasid: number, itag: number) {
      answered++;
      hw.invalidateCompletion(rid, 1 << itag, 1);
      return true;
    },
    pageResponse() {},
    resumed() {},
  };
  const hw: PhysicalVtd = new PhysicalVtd({
    memory: memory.space,
    cap: FULL_CAP,
    ecap: FULL_ECAP,
    clock,
    events,
    endpoints,
  });
  const kernel = new HostKernel({ memory, clock });
  const driver = new VtdDriver({ name: 'vtd', hw, memory });
  kernel.addIommu(driver);
  events.to = driver.events;
  const dev = kernel.addDevice({ name: 'function', streams: [0x10], iommu: driver, ats });
  const parent = must(driver.allocPaging(dev, HWPT_FLAG.NEST_PARENT, null));
  parent.map(0n, hpa, RAM, 3);
  const data = new DataView(new ArrayBuffer(24));
  data.setBigUint64(8, 0x1000n, true);
  data.setUint32(16, 48, true);
  const user = {
    length: 24,
    copyIn(offset: number, into: Uint8Array) {
      into.set(new Uint8Array(data.buffer, offset, into.length));
      return true;
    },
    copyOut: () => true,
  };
  const nested = must(driver.allocNested(dev, parent, 0, { type: HWPT_DATA.VTD_S1, user }));
  if (nested.attach(dev, NO_PASID, null) !== 0) throw new ViommuError('EIO', 'host', 'the bench cannot attach');
  const words = new Int32Array(BATCH * ENTRY);
  for (let n = 0; n < BATCH; n++) words.set([(n << 12) | 0, 0x7f00, 1, 0, 1, 0], n * ENTRY);
  const target = nested.invalidation;
  return {
    ops: BATCH,
    run() {
      const before = answered;
      if (target?.run(words, 0, BATCH) !== 0 || answered - before !== (ats ? BATCH : 0)) {
        throw new ViommuError('EIO', 'host', 'the bench invalidates wrongly', { answered: answered - before });
      }
    },
  };
}

/** HWPT_INVALIDATE of one page, in arrays of 64: kernel, invalidation queue, caches, and the function's ATC. */
export const VTD_HOST_CASES: readonly BenchCase[] = [
  { name: 'VT-d HWPT_INVALIDATE, one page', setup: () => invalidations(false) },
  { name: 'VT-d HWPT_INVALIDATE, one page, and its ATC', setup: () => invalidations(true) },
];
