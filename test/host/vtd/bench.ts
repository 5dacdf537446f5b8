import { VtdDriver, type VtdDriverOptions } from '../../../src/host/drivers/vtd/driver.ts';
import type { DeviceDescription, KernelDevice } from '../../../src/host/kernel/device.ts';
import type { Domain, NestedDomain, PagingDomain } from '../../../src/host/kernel/driver.ts';
import { HostKernel } from '../../../src/host/kernel/kernel.ts';
import { UpcallHub } from '../../../src/host/upcalls/upcall-hub.ts';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { ramBacking } from '../../../src/lib/memory/address-space.ts';
import { HostMemory } from '../../../src/lib/memory/host-memory.ts';
import { HwRelay } from '../../../src/machine/hw-relay.ts';
import { PhysicalVtd } from '../../../src/piommu/vtd/device.ts';
import type { PhysicalVtdOptions } from '../../../src/piommu/vtd/options.ts';
import { AT, DMA, type EndpointPort, NO_PASID } from '../../../src/ports/dma.ts';
import type { UserData } from '../../../src/ports/iommufd.ts';
import { HWPT_DATA, HWPT_FLAG } from '../../../src/spec/iommufd/uapi.ts';
import { frcd } from '../../../src/spec/vtd/faults.ts';
import { decodeInvalidation, type InvalidationDescriptor } from '../../../src/spec/vtd/invalidation.ts';
import { CAP_ALL, ECAP_ALL, words } from '../../piommu/vtd/rig.ts';

/** Bytes in the caller's memory. */
export function userData(bytes: Uint8Array): UserData {
  return {
    length: bytes.length,
    copyIn: (offset, into) => {
      into.set(bytes.subarray(offset, offset + into.length));
      return true;
    },
    copyOut: (offset, from) => {
      bytes.set(from, offset);
      return true;
    },
  };
}

/** struct iommu_hwpt_vtd_s1. */
export function firstStageData(pgtbl: bigint, width = 48, flags = 0n): Uint8Array {
  const v = new DataView(new ArrayBuffer(24));
  v.setBigUint64(0, flags, true);
  v.setBigUint64(8, pgtbl, true);
  v.setUint32(16, width, true);
  return new Uint8Array(v.buffer);
}

/** Functions with an ATC that completes at once. */
class Functions implements EndpointPort {
  readonly invalidations: { rid: number; pasid: number; address: bigint }[] = [];
  readonly responses: [rid: number, pasid: number, group: number, code: number][] = [];
  answers: 'now' | 'later' | 'never' = 'now';
  hw: PhysicalVtd | null = null;
  invalidate(rid: number, pasid: number, itag: number, lo: number, hi: number): boolean {
    this.invalidations.push({ rid, pasid, address: (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0) });
    if (this.answers === 'now') this.hw?.invalidateCompletion(rid, 1 << itag, 1);
    return this.answers !== 'never';
  }
  pageResponse(rid: number, pasid: number, group: number, code: number): void {
    this.responses.push([rid, pasid, group, code]);
  }
  resumed(): void {}
}

export interface BenchOptions {
  readonly hardware?: Partial<PhysicalVtdOptions>;
  readonly driver?: Partial<VtdDriverOptions>;
  readonly upcalls?: boolean;
  readonly pages?: number;
}

/** Guest RAM as the tests have it. */
export const RAM = 0x40_0000;

/** A kernel with one real VT-d unit below it, and a guest's RAM somewhere else than the guest believes. */
export class Bench {
  readonly memory: HostMemory;
  readonly clock = new VirtualClock();
  readonly functions = new Functions();
  readonly hub = new UpcallHub();
  readonly hw: PhysicalVtd;
  readonly driver: VtdDriver;
  readonly kernel: HostKernel;
  /** Descriptors that reached the unit. */
  readonly seen: InvalidationDescriptor[] = [];
  /** ATS and PRI as switched in the functions. */
  readonly switched: string[] = [];
  readonly hpa: number;

  constructor(options: BenchOptions = {}) {
    this.memory = new HostMemory(options.pages);
    this.hpa = this.memory.place(0, RAM, ramBacking(RAM));
    const events = new HwRelay();
    const base = { memory: this.memory.space, cap: CAP_ALL, ecap: ECAP_ALL, clock: this.clock, events };
    this.hw = new PhysicalVtd({ ...base, ...options.hardware, endpoints: this.functions });
    this.functions.hw = this.hw;
    this.kernel = new HostKernel({ memory: this.memory, clock: this.clock });
    this.driver = new VtdDriver({
      name: 'vtd.0',
      hw: this.hw,
      memory: this.memory,
      upcalls: options.upcalls === false ? null : this.hub,
      ...options.driver,
    });
    this.kernel.addIommu(this.driver);
    events.to = this.driver.events;
    this.hw.tell = (s) => {
      if (s.what === 'hw.command') this.seen.push(decodeInvalidation(s.words));
    };
  }

  device(name: string, streams: readonly number[], more: Partial<DeviceDescription> = {}): KernelDevice {
    const control = {
      setAts: (on: boolean) => this.switched.push(`${name} ats ${on}`),
      setPri: (on: boolean) => this.switched.push(`${name} pri ${on}`),
    };
    return this.kernel.addDevice({
      name,
      streams,
      iommu: this.driver,
      ats: true,
      pri: true,
      pasidBits: 20,
      control,
      ...more,
    });
  }

  paging(dev: KernelDevice, flags: number = HWPT_FLAG.NEST_PARENT): PagingDomain {
    return ok(this.driver.allocPaging(dev, flags, null));
  }

  /** A nest parent with all of RAM at guest-physical 0. */
  parent(dev: KernelDevice, flags: number = HWPT_FLAG.NEST_PARENT): PagingDomain {
    const domain = this.paging(dev, flags);
    if (domain.map(0n, this.hpa, RAM, 3) !== 0) throw new Error('map');
    return domain;
  }

  nested(dev: KernelDevice, parent: PagingDomain, data: Uint8Array): NestedDomain {
    return ok(this.driver.allocNested(dev, parent, 0, { type: HWPT_DATA.VTD_S1, user: userData(data) }));
  }

  attach(dev: KernelDevice, domain: Domain, pasid: number = NO_PASID): number {
    if (pasid === NO_PASID) return dev.group.setDomain(domain);
    return dev.group.setPasid(domain, pasid, dev.group.pasids.has(pasid));
  }
  detach(dev: KernelDevice, pasid: number = NO_PASID): void {
    if (pasid === NO_PASID) dev.group.block(this.driver.blocked);
    else dev.group.clearPasid(pasid);
  }

  /** Writes a qword of guest memory. */
  guest(gpa: number, q: bigint): void {
    this.memory.space.store64(this.hpa + gpa, ...words(q));
  }

  /** Maps a page in a guest's four-level first-stage table at `root`; tables are taken from `root` + 4 KiB on. */
  guestMap(root: number, iova: bigint, gpa: bigint, flags = 0x67n): void {
    let table = root;
    for (let level = 4; level > 1; level--) {
      const next = root + 4096 * (5 - level);
      this.guest(table + Number((iova >> BigInt(3 + 9 * level)) & 511n) * 8, BigInt(next) | 0x67n);
      table = next;
    }
    this.guest(table + Number((iova >> 12n) & 511n) * 8, gpa | flags);
  }

  /** @returns guest-physical address reached, or minus the fault reason. */
  dma(iova: bigint, rid: number, pasid: number = NO_PASID, access = 1): number {
    const before = this.driver.faultLog.length;
    const r = this.hw.translate(rid, pasid, ...words(iova), access, AT.UNTRANSLATED);
    if (r === DMA.OK) return this.hw.out - this.hpa;
    return this.driver.faultLog.length === before ? -1000 : -frcd.reason(this.driver.faultLog.at(-1)![3]!);
  }

  /** Descriptors since the last call, in short. */
  take(): string[] {
    return this.seen.splice(0).map((d) => {
      switch (d.op) {
        case 'context-cache':
          return `context ${d.granularity}`;
        case 'iotlb':
          return d.granularity === 'page' ? `iotlb page 2^${d.am}` : `iotlb ${d.granularity}`;
        case 'p-iotlb':
          return d.granularity === 'page' ? `p-iotlb page ${d.page} 2^${d.am}` : `p-iotlb ${d.pasid}`;
        case 'pasid-cache':
          return `pasid-cache ${d.granularity}`;
        case 'device':
          return `device ${d.address.toString(16)}${d.size ? ' S' : ''}`;
        case 'p-device':
          return `p-device ${d.pasid} ${d.address.toString(16)}${d.size ? ' S' : ''}`;
        default:
          return d.op;
      }
    });
  }
}

export function ok<T>(r: T | number): T {
  if (typeof r === 'number') throw new Error(`errno ${-r}`);
  return r;
}
export type { KernelDevice };
