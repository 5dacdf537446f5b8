import type { HostMemory } from '../../../lib/memory/host-memory.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { MOCK, MOCK_INVALIDATE_ALL } from '../../../spec/iommufd/selftest.ts';
import type {
  DriverData,
  DriverHwQueue,
  DriverViommu,
  HwQueueOps,
  Invalidation,
  NestedDomain,
  PagingDomain,
  Result,
  ViommuServices,
} from '../../kernel/driver.ts';
import { answerDriverData, copyDriverData } from '../../kernel/driver-data.ts';
import { type MockDevices, MockNested, type MockOwner } from './domains.ts';

const LOOPBACK_BYTES = 24;
const LOOPBACK_FIRST = 8;
const PAGES = 2;

/** Reads the nested HWPT's blob {iotlb, pagetable_type}. @returns the first word in `out[0]`, or -errno. */
export function readHwptData(data: DriverData, out: Uint32Array): number {
  if (data.type !== MOCK.HWPT_DATA) return -E.OPNOTSUPP;
  return copyDriverData(data, MOCK.HWPT_DATA, 4, new Uint8Array(out.buffer, out.byteOffset, 8));
}

/** What the mock's vIOMMU is made of. */
export interface MockViommuParts {
  readonly owner: MockOwner;
  readonly parent: PagingDomain;
  readonly services: ViommuServices;
  /** Where the pages to mmap come from. */
  readonly memory: HostMemory;
}

/** The mock's vIOMMU: device cache invalidation, a loop-back blob, two pages to mmap and two hardware queues. */
export class MockViommu implements DriverViommu {
  readonly services: ViommuServices;
  readonly invalidation: Invalidation;
  readonly hwQueues: HwQueueOps;
  readonly #parts: MockViommuParts;
  #pages = -1;

  constructor(parts: MockViommuParts) {
    this.#parts = parts;
    this.services = parts.services;
    this.invalidation = new CacheInvalidation(parts.owner, parts.services);
    this.hwQueues = new MockHwQueues(parts.parent);
  }

  /** Loops `in_data` back and offers two pages whose first word it is. @returns 0 or -errno. */
  loopBack(data: DriverData): number {
    const blob = new Uint8Array(LOOPBACK_BYTES);
    const r = copyDriverData(data, MOCK.VIOMMU, LOOPBACK_FIRST, blob);
    if (r !== 0) return r;
    const { memory } = this.#parts;
    this.#pages = memory.allocate(PAGES);
    if (this.#pages < 0) return -E.NOMEM;
    const view = new DataView(blob.buffer);
    const word = view.getUint32(0, true);
    memory.space.store32(this.#pages, word | 0);
    const offset = this.services.offerMmap(this.#pages, PAGES * 4096);
    if (offset < 0n) return -E.NOMEM;
    view.setUint32(4, word, true);
    view.setBigUint64(8, offset, true);
    view.setBigUint64(16, BigInt(PAGES * 4096), true);
    return answerDriverData(data, blob);
  }

  allocNested(_flags: number, data: DriverData): Result<NestedDomain> {
    const blob = new Uint32Array(2);
    const r = readHwptData(data, blob);
    const { owner, parent } = this.#parts;
    return r !== 0 ? r : new MockNested(owner, { parent, viommu: this, iotlb: blob[0]! });
  }

  vdeviceInit(): number {
    return 0;
  }
  vdeviceDestroy(): void {}

  destroy(): void {
    if (this.#pages >= 0) this.#parts.memory.free(this.#pages, PAGES);
    this.#pages = -1;
  }
}

/** Entries {flags, virt_id, word index}. */
class CacheInvalidation implements Invalidation {
  readonly type = MOCK.INVALIDATE;
  readonly entryBytes = 12;
  readonly copy = 'all';
  readonly emptyOk = true;
  done = 0;
  readonly #devices: MockDevices;
  readonly #services: ViommuServices;

  constructor(devices: MockDevices, services: ViommuServices) {
    this.#devices = devices;
    this.#services = services;
  }

  run(words: Int32Array, start: number, count: number): number {
    for (this.done = 0; this.done < count; this.done++) {
      const at = start + this.done * 3;
      const flags = words[at]!;
      const index = words[at + 2]! >>> 0;
      if ((flags & ~MOCK_INVALIDATE_ALL) !== 0) return -E.OPNOTSUPP;
      if (index >= MOCK.WORDS) return -E.INVAL;
      const dev = this.#services.findDevice(words[at + 1]! >>> 0);
      if (dev === null) return -E.INVAL;
      const { cache } = this.#devices.state(dev);
      if (flags !== 0) cache.fill(0);
      else cache[index] = 0;
    }
    return 0;
  }
}

class MockHwQueues implements HwQueueOps {
  readonly #parent: PagingDomain;
  readonly #used = new Set<number>();

  constructor(parent: PagingDomain) {
    this.#parent = parent;
  }

  supported(type: number): boolean {
    return type === MOCK.HW_QUEUE;
  }

  init(_type: number, index: number, iova: bigint, hpa: number): Result<DriverHwQueue> {
    if (index >= MOCK.HW_QUEUES) return -E.INVAL;
    if (this.#used.has(index)) return -E.EXIST;
    if (index > 0 && !this.#used.has(index - 1)) return -E.IO;
    if (this.#parent.iovaToPhys(iova) !== hpa) return -E.FAULT;
    this.#used.add(index);
    return { destroy: () => void this.#used.delete(index) };
  }
}
