import { NO_PASID } from '../../../ports/dma.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { MOCK, MOCK_INVALIDATE_ALL } from '../../../spec/iommufd/selftest.ts';
import type {
  DirtyOps,
  Domain,
  HostDevice,
  Invalidation,
  IommuDriver,
  NestedDomain,
  PagingDomain,
  ViommuServices,
} from '../../kernel/driver.ts';
import { MockMapping } from './mapping.ts';

/** A vIOMMU of the mock, as its nested domains see it. */
export interface MockNamer {
  readonly services: ViommuServices;
}

/** What the mock driver keeps per device. */
export interface MockDeviceState {
  readonly flags: number;
  /** Fake cache words. */
  readonly cache: Uint32Array;
  /** The vIOMMU and virt_id latched at the last RID attach. */
  viommu: MockNamer | null;
  virtId: bigint;
  pasidFails: boolean;
}

/** Finds what the driver keeps. */
export interface MockDevices {
  state(dev: HostDevice): MockDeviceState;
}

/** The mock driver, as its domains see it. */
export interface MockOwner extends IommuDriver, MockDevices {}

/** Attach rules all domains share (`dirty`: the domain tracks dirty pages; `viommu`: made through one). */
function attach(
  devices: MockDevices,
  dev: HostDevice,
  pasid: number,
  kind: Domain['kind'],
  dirty: boolean,
  viommu: MockNamer | null,
): number {
  const d = devices.state(dev);
  if (pasid !== NO_PASID) return attachPasid(d, pasid, kind);
  if (dirty && (d.flags & 1) !== 0) return -E.INVAL;
  let virtId = 0n;
  if (viommu !== null) {
    virtId = viommu.services.virtIdOf(dev);
    if (virtId < 0n) return -E.NOENT;
  }
  if (viommu !== d.viommu) {
    d.viommu = viommu;
    d.virtId = virtId;
  }
  return 0;
}

/** One PASID fails its second attach: a test of the core's way back. */
function attachPasid(d: MockDeviceState, pasid: number, kind: Domain['kind']): number {
  if (pasid !== MOCK.PASID_FAILS) return 0;
  if (kind === 'blocked') {
    d.pasidFails = false;
    return 0;
  }
  d.pasidFails = !d.pasidFails;
  return d.pasidFails ? 0 : -E.NOMEM;
}

/** Where all DMA fails. */
export class MockBlocked implements Domain {
  readonly kind = 'blocked';
  readonly iommu: IommuDriver;
  readonly pasidCapable = true;
  iopf = false;
  readonly #devices: MockDevices;

  constructor(owner: MockOwner) {
    this.iommu = owner;
    this.#devices = owner;
  }

  attach(dev: HostDevice, pasid: number): number {
    return attach(this.#devices, dev, pasid, 'blocked', false, null);
  }
  free(): void {}
}

/** What a paging domain of the mock is made of. */
export interface MockPagingParts {
  readonly nestParent: boolean;
  /** Tracks dirty pages. */
  readonly dirty: boolean;
  /** The second kind of page table: entries up to 1 MiB, the full aperture. */
  readonly huge: boolean;
  /** Bytes that become dirty together. */
  readonly dirtyUnit: number;
}

/** A paging domain: a page table of runs, and dirty bits that a test command sets. */
export class MockPaging implements PagingDomain {
  readonly kind = 'paging';
  readonly iommu: IommuDriver;
  readonly pasidCapable = true;
  readonly nestParent: boolean;
  readonly pageBytes: number;
  readonly apertureStart: bigint;
  readonly apertureLast: bigint;
  iopf = false;
  readonly mapping: MockMapping;
  readonly dirty: DirtyOps | null;
  tracking = false;
  readonly #devices: MockDevices;

  constructor(owner: MockOwner, parts: MockPagingParts) {
    const { nestParent, dirty, huge, dirtyUnit } = parts;
    this.iommu = owner;
    this.#devices = owner;
    this.nestParent = nestParent;
    this.pageBytes = huge ? 4096 : MOCK.PAGE;
    this.apertureStart = huge ? 0n : MOCK.APERTURE_START;
    this.apertureLast = huge ? (1n << 56n) - 1n : MOCK.APERTURE_LAST;
    this.mapping = new MockMapping(huge, dirtyUnit);
    this.dirty = dirty
      ? {
          set: (on) => {
            this.tracking = on;
            return 0;
          },
          read: (iova, bytes, noClear, sink) => {
            this.mapping.readDirty(Number(iova), Number(iova + bytes), !noClear, sink);
            return 0;
          },
        }
      : null;
  }

  attach(dev: HostDevice, pasid: number): number {
    return attach(this.#devices, dev, pasid, 'paging', this.dirty !== null, null);
  }
  enforceCacheCoherency(): boolean {
    return false;
  }
  map(iova: bigint, hpa: number, bytes: number): number {
    this.mapping.map(Number(iova), hpa, bytes);
    return 0;
  }
  unmap(iova: bigint, bytes: bigint): bigint {
    return BigInt(this.mapping.unmap(Number(iova), Number(iova + bytes)));
  }
  iovaToPhys(iova: bigint): number {
    return this.mapping.translate(Number(iova));
  }
  free(): void {}
}

/** What a nested domain of the mock is made of. */
export interface MockNestedParts {
  readonly parent: PagingDomain;
  /** null: made directly on the parent. */
  readonly viommu: MockNamer | null;
  /** What its fake IOTLB words begin with. */
  readonly iotlb: number;
}

/** A nested domain: four fake IOTLB words that invalidations clear. */
export class MockNested implements NestedDomain {
  readonly kind = 'nested';
  readonly iommu: IommuDriver;
  readonly pasidCapable = true;
  readonly parent: PagingDomain;
  readonly viommu: MockNamer | null;
  iopf = false;
  /** Fake IOTLB words. */
  readonly iotlb = new Uint32Array(MOCK.WORDS);
  readonly invalidation: Invalidation;
  readonly #devices: MockDevices;

  constructor(owner: MockOwner, parts: MockNestedParts) {
    this.iommu = owner;
    this.#devices = owner;
    this.parent = parts.parent;
    this.viommu = parts.viommu;
    this.iotlb.fill(parts.iotlb);
    this.invalidation = new IotlbInvalidation(this.iotlb);
  }

  attach(dev: HostDevice, pasid: number): number {
    return attach(this.#devices, dev, pasid, 'nested', false, this.viommu);
  }
  free(): void {}
}

/** Entries {flags, word index} on a nested HWPT. */
class IotlbInvalidation implements Invalidation {
  readonly type = MOCK.INVALIDATE;
  readonly entryBytes = 8;
  readonly copy = 'each';
  readonly emptyOk = true;
  done = 0;
  readonly #iotlb: Uint32Array;

  constructor(iotlb: Uint32Array) {
    this.#iotlb = iotlb;
  }

  run(words: Int32Array, start: number, count: number): number {
    for (this.done = 0; this.done < count; this.done++) {
      const at = start + this.done * 2;
      const flags = words[at]!;
      const index = words[at + 1]! >>> 0;
      if ((flags & ~MOCK_INVALIDATE_ALL) !== 0) return -E.OPNOTSUPP;
      if (index >= MOCK.WORDS) return -E.INVAL;
      if (flags !== 0) this.#iotlb.fill(0);
      else this.#iotlb[index] = 0;
    }
    return 0;
  }
}
