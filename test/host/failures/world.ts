import { makeBackend, type ServedKernel } from '../../../src/adapters/iommufd-socket/backend.ts';
import { IommufdFile } from '../../../src/host/iommufd/file.ts';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import type { KernelDevice } from '../../../src/host/kernel/device.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import type { EventFd } from '../../../src/ports/iommufd.ts';
import { MOCK } from '../../../src/spec/iommufd/selftest.ts';
import { HWPT_DATA, HWPT_FLAG, VIOMMU_TYPE } from '../../../src/spec/iommufd/uapi.ts';
import { user, words } from '../host.ts';
import { CountingMemory, hostState } from './state.ts';

export type BackendName = 'mock' | 'smmuv3' | 'vtd';

/** First IOVA every backend can map, and where the process's buffer is. */
export const IOVA = MOCK.APERTURE_START;
const FIXED_RW = 7;
const PAGE = 0x1000n;

/** What nests on a parent or a vIOMMU of each backend. */
const NESTED: Record<BackendName, { readonly type: number; readonly data: Uint8Array }> = {
  mock: { type: MOCK.HWPT_DATA, data: words(0xbad, 0) },
  // A translating vSTE: V, Cfg 5.
  smmuv3: { type: HWPT_DATA.ARM_SMMUV3, data: words(0xb, 0, 0, 0) },
  // 48 bits, table at 64 KiB.
  vtd: { type: HWPT_DATA.VTD_S1, data: words(0, 0, 0x1_0000, 0, 48, 0) },
};

/** A kernel with four functions behind one IOMMU and a program that drives an iommufd through the verbs. */
export class World {
  readonly name: BackendName;
  readonly backend: ServedKernel;
  readonly process = new CountingMemory();
  readonly fd: IommufdFile;
  readonly vfio: VfioFile[];
  readonly devices: readonly KernelDevice[];
  readonly files: EventFd[] = [];
  readonly ids = new Map<string, number>();

  constructor(name: BackendName) {
    this.name = name;
    this.backend = makeBackend(name);
    this.fd = new IommufdFile(this.backend.kernel, this.process);
    this.devices = this.backend.vfio;
    this.vfio = this.devices.map((d) => new VfioFile(d));
  }

  get memory() {
    return this.backend.kernel.memory;
  }
  state(): string {
    return hostState(this.fd, this.memory, this.process, this.devices);
  }

  id(name: string): number {
    const id = this.ids.get(name);
    if (id === undefined) throw new Error(`no ${name} yet`);
    return id;
  }
  #keep(name: string, r: number, id: number): number {
    if (r === 0) this.ids.set(name, id);
    return r;
  }

  ioas(name: string): number {
    const c = { flags: 0, outIoasId: 0 };
    return this.#keep(name, this.fd.ioasAlloc(c), c.outIoasId);
  }
  map(ioas: string, iova: bigint, pages: number, va = iova): number {
    const length = BigInt(pages) * PAGE;
    return this.fd.ioasMap({ flags: FIXED_RW, ioasId: this.id(ioas), reserved: 0, userVa: va, length, iova });
  }
  copy(from: string, to: string, srcIova: bigint, dstIova: bigint, pages: number): number {
    const c = { flags: FIXED_RW, srcIoasId: this.id(from), dstIoasId: this.id(to) };
    return this.fd.ioasCopy({ ...c, length: BigInt(pages) * PAGE, srcIova, dstIova });
  }
  unmap(ioas: string, iova: bigint, pages: number): number {
    return this.fd.ioasUnmap({ ioasId: this.id(ioas), iova, length: BigInt(pages) * PAGE });
  }
  bind(i: number): number {
    const r = this.vfio[i]!.bind(this.fd);
    return this.#keep(`dev${i}`, r, this.vfio[i]!.devId);
  }
  hwpt(name: string, on: string, flags = 0, data: { type: number; data: Uint8Array } | null = null): number {
    const c = {
      flags,
      devId: this.id('dev0'),
      ptId: this.id(on),
      outHwptId: 0,
      reserved: 0,
      dataType: data?.type ?? 0,
      data: data === null ? null : user(data.data),
      faultId: (flags & HWPT_FLAG.FAULT_ID_VALID) !== 0 ? this.id('faults') : 0,
    };
    return this.#keep(name, this.fd.hwptAlloc(c), c.outHwptId);
  }
  nested(name: string, on: string, flags = 0): number {
    return this.hwpt(name, on, flags, NESTED[this.name]);
  }
  attach(i: number, to: string, pasid = NO_PASID): number {
    const r = this.vfio[i]!.attach(this.id(to), pasid);
    return this.#keep(`at${i}`, r, this.vfio[i]!.ptId);
  }
  faults(): number {
    const c = { flags: 0, outFaultId: 0, outFd: null as EventFd | null };
    const r = this.fd.faultQueueAlloc(c);
    if (r === 0) this.files.push(c.outFd!);
    return this.#keep('faults', r, c.outFaultId);
  }
  viommu(name: string, on: string): number {
    const type = this.name === 'mock' ? MOCK.VIOMMU : VIOMMU_TYPE.ARM_SMMUV3;
    const data = this.name === 'mock' ? user(new Uint8Array(24)) : null;
    const c = { flags: 0, type, devId: this.id('dev0'), hwptId: this.id(on), outViommuId: 0, data };
    return this.#keep(name, this.fd.viommuAlloc(c), c.outViommuId);
  }
  vdevice(name: string, viommu: string, i: number): number {
    const c = { viommuId: this.id(viommu), devId: this.id(`dev${i}`), outVdeviceId: 0, virtId: BigInt(8 + i) };
    return this.#keep(name, this.fd.vdeviceAlloc(c), c.outVdeviceId);
  }
  veventq(viommu: string): number {
    const type = this.name === 'mock' ? MOCK.VEVENTQ : 1;
    const c = { flags: 0, viommuId: this.id(viommu), type, depth: 4, reserved: 0 };
    const out = { ...c, outVeventqId: 0, outFd: null as EventFd | null };
    const r = this.fd.veventqAlloc(out);
    if (r === 0) this.files.push(out.outFd!);
    return this.#keep('veventq', r, out.outVeventqId);
  }
  hwQueue(viommu: string): number {
    const c = { flags: 0, viommuId: this.id(viommu), type: MOCK.HW_QUEUE, index: 0, outHwQueueId: 0 };
    return this.fd.hwQueueAlloc({ ...c, nestingParentIova: IOVA, length: PAGE });
  }
  allow(ioas: string): number {
    const allowed = [{ start: IOVA, last: 0x7ff_ffffn }];
    return this.fd.ioasAllowIovas({ ioasId: this.id(ioas), reserved: 0, allowed });
  }
  /** Closes everything; what is left in use then is a leak. */
  close(): void {
    for (const f of this.files) f.close();
    for (const f of this.vfio) f.close();
    this.fd.close();
  }
}
