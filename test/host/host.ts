import { MockDriver } from '../../src/host/drivers/mock/driver.ts';
import { MockCommands } from '../../src/host/drivers/mock/test-commands.ts';
import { IommufdFile } from '../../src/host/iommufd/file.ts';
import type { KernelDevice } from '../../src/host/kernel/device.ts';
import { HostKernel } from '../../src/host/kernel/kernel.ts';
import { VirtualClock } from '../../src/lib/clock/virtual-clock.ts';
import { ramBacking } from '../../src/lib/memory/address-space.ts';
import { HostMemory } from '../../src/lib/memory/host-memory.ts';
import type { EventFd, PinAccount, UserData, UserMemory } from '../../src/ports/iommufd.ts';
import { MOCK } from '../../src/spec/iommufd/selftest.ts';

export const APERTURE = MOCK.APERTURE_START;
export const ALL = 0xffff_ffff_ffff_ffffn;
/** FIXED_IOVA | WRITEABLE | READABLE. */
export const FIXED_RW = 7;
export const RW = 6;

/** Where a process's buffer is, and how much of it there is. */
export const VA = 0x2000_0000n;
export const BUFFER = 0x10_0000;

/** A process with one buffer of real host memory. Counts pins; can lose its memory or make it read-only. */
export class Process implements UserMemory {
  hpa = 0;
  run = 0;
  readonly base: number;
  gone = false;
  /** Pages that may be pinned; beyond it is ENOMEM. */
  limit = Number.POSITIVE_INFINITY;
  failure = 0;
  readOnly = false;
  /** Bytes an answer may cover at once. */
  longest = Number.POSITIVE_INFINITY;
  asked = 0;
  readonly pins = new Map<number, number>();
  /** Who pays; set before the first map. */
  account?: PinAccount;

  constructor(memory: HostMemory) {
    this.base = memory.place(0, BUFFER, ramBacking(BUFFER));
  }

  pin(va: bigint, bytes: bigint, write: boolean): boolean {
    this.asked++;
    this.failure = this.pins.size >= this.limit ? 12 : 0;
    if (this.failure !== 0) return false;
    const at = Number(va - VA);
    if (this.gone || (write && this.readOnly) || at < 0 || at >= BUFFER) return false;
    this.hpa = this.base + at;
    this.run = Math.min(Number(bytes), BUFFER - at, this.longest);
    for (let b = 0; b < this.run; b += 4096) this.#count(this.hpa + b, 1);
    return true;
  }
  unpin(hpa: number, bytes: number): void {
    for (let b = 0; b < bytes; b += 4096) this.#count(hpa + b, -1);
  }
  #count(hpa: number, by: number): void {
    const n = (this.pins.get(hpa) ?? 0) + by;
    if (n < 0) throw new Error('unpinned more often than pinned');
    if (n === 0) this.pins.delete(hpa);
    else this.pins.set(hpa, n);
  }
}

export function user(bytes: Uint8Array, readable = bytes.length, writable = bytes.length): UserData {
  return {
    length: bytes.length,
    copyIn(offset, into) {
      if (offset + into.length > readable) return false;
      into.set(bytes.subarray(offset, offset + into.length));
      return true;
    },
    copyOut(offset, from) {
      if (offset + from.length > writable) return false;
      bytes.set(from, offset);
      return true;
    },
  };
}

export function words(...values: readonly number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

/** A kernel with the mock IOMMU and one open iommufd, with verbs in short. */
export class Host {
  readonly memory = new HostMemory();
  readonly kernel: HostKernel;
  readonly driver: MockDriver;
  readonly process: Process;
  readonly fd: IommufdFile;
  readonly mock: MockCommands;

  constructor(privileged = true, dirtyUnit = 2048) {
    this.kernel = new HostKernel({ memory: this.memory, clock: new VirtualClock() });
    this.driver = new MockDriver(this.memory, dirtyUnit);
    this.kernel.addIommu(this.driver);
    this.process = new Process(this.memory);
    this.fd = new IommufdFile(this.kernel, this.process, privileged);
    this.mock = new MockCommands(this.fd, this.driver);
  }

  ioas(): number {
    const c = { flags: 0, outIoasId: 0 };
    must(this.fd.ioasAlloc(c));
    return c.outIoasId;
  }

  map(ioasId: number, iova: bigint, length: bigint, va = VA, flags = FIXED_RW): number {
    return this.fd.ioasMap({ flags, ioasId, reserved: 0, userVa: va, length, iova });
  }

  /** An automatic IOVA; throws when there is none. */
  mapAny(ioasId: number, length: bigint, va = VA): bigint {
    const c = { flags: RW, ioasId, reserved: 0, userVa: va, length, iova: 0n };
    must(this.fd.ioasMap(c));
    return c.iova;
  }

  unmap(ioasId: number, iova: bigint, length: bigint): number | bigint {
    const c = { ioasId, iova, length };
    const r = this.fd.ioasUnmap(c);
    return r === 0 ? c.length : r;
  }

  /** A mock device attached to `pt`. */
  device(pt: number, flags = 0): { stdev: number; idev: number; hwpt: number } {
    const out = { stdevId: 0, hwptId: 0, idevId: 0 };
    must(this.mock.mockDevice(pt, flags, out));
    return { stdev: out.stdevId, idev: out.idevId, hwpt: out.hwptId };
  }

  /** A function that a VFIO driver can bind. */
  function(name: string, more: Partial<Parameters<HostKernel['addDevice']>[0]> = {}): KernelDevice {
    const d = this.driver.describe(4);
    if (typeof d === 'number') throw new Error('flags');
    return this.kernel.addDevice({ ...d, name, ...more });
  }

  hwpt(dev: number, pt: number, flags = 0, data: Uint8Array | null = null, type?: number, fault = 0): number {
    const c = {
      flags,
      devId: dev,
      ptId: pt,
      outHwptId: 0,
      reserved: 0,
      dataType: type ?? (data === null ? 0 : MOCK.HWPT_DATA),
      data: data === null ? null : user(data),
      faultId: fault,
    };
    const r = this.fd.hwptAlloc(c);
    return r === 0 ? c.outHwptId : r;
  }

  nested(dev: number, pt: number, flags = 0, fault = 0): number {
    return this.hwpt(dev, pt, flags, words(0xbad, 0), MOCK.HWPT_DATA, fault);
  }

  viommu(dev: number, hwpt: number, type: number = MOCK.VIOMMU, flags = 0): number {
    const c = { flags, type, devId: dev, hwptId: hwpt, outViommuId: 0, data: null };
    const r = this.fd.viommuAlloc(c);
    return r === 0 ? c.outViommuId : r;
  }

  vdevice(viommu: number, dev: number, virtId: bigint): number {
    const c = { viommuId: viommu, devId: dev, outVdeviceId: 0, virtId };
    const r = this.fd.vdeviceAlloc(c);
    return r === 0 ? c.outVdeviceId : r;
  }

  veventq(viommu: number, depth = 2, type: number = MOCK.VEVENTQ): { id: number; fd: EventFd } {
    const c = { flags: 0, viommuId: viommu, type, depth, reserved: 0, outVeventqId: 0, outFd: null as EventFd | null };
    must(this.fd.veventqAlloc(c));
    return { id: c.outVeventqId, fd: c.outFd! };
  }

  fault(): { id: number; fd: EventFd } {
    const c = { flags: 0, outFaultId: 0, outFd: null as EventFd | null };
    must(this.fd.faultQueueAlloc(c));
    return { id: c.outFaultId, fd: c.outFd! };
  }

  hwQueue(viommuId: number, index: number, iova: bigint, length = 4096n, type: number = MOCK.HW_QUEUE): number {
    const c = { flags: 0, viommuId, type, index, outHwQueueId: 0, nestingParentIova: iova, length };
    const r = this.fd.hwQueueAlloc(c);
    return r === 0 ? c.outHwQueueId : r;
  }
}

export function must(r: number): void {
  if (r !== 0) throw new Error(`expected success, got ${r}`);
}
