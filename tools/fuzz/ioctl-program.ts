import { makeBackend, type ServedKernel } from '../../src/adapters/iommufd-socket/backend.ts';
import type { Caller, CountedMemory, KernelFile } from '../../src/host/ioctl/caller.ts';
import { IommufdNode } from '../../src/host/ioctl/iommufd-node.ts';
import { IommufdFile } from '../../src/host/iommufd/file.ts';
import { VfioFile } from '../../src/host/iommufd/vfio-device.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import { E } from '../../src/spec/iommufd/errno.ts';
import { ARGUMENT_BYTES, ARGUMENTS, BUFFER, BUFFER_BYTES } from './ioctl-steps.ts';
import { Finding, type Plant } from './target.ts';

/** Pages of a program, each at a host-physical place of its own; counts how often each is pinned. */
class PinnedPages implements CountedMemory {
  hpa = 0;
  run = 0;
  readonly pinned = new Map<number, number>();

  pin(va: bigint, bytes: bigint): boolean {
    const at = Number(va);
    const [base, size] = at >= BUFFER ? [BUFFER, BUFFER_BYTES] : [ARGUMENTS, ARGUMENT_BYTES];
    if (at < base || at >= base + size) return false;
    this.hpa = 2 ** 42 + at;
    this.run = Math.min(Number(bytes), base + size - at);
    for (let b = 0; b < this.run; b += 4096) this.#count(this.hpa + b, 1);
    return true;
  }
  unpin(hpa: number, bytes: number): void {
    for (let b = 0; b < bytes; b += 4096) this.#count(hpa + b, -1);
  }
  pins(hpa: number): number {
    return this.pinned.get(hpa) ?? 0;
  }
  #count(hpa: number, by: number): void {
    const n = (this.pinned.get(hpa) ?? 0) + by;
    if (n < 0) throw new Finding('a page is unpinned more often than pinned');
    if (n === 0) this.pinned.delete(hpa);
    else this.pinned.set(hpa, n);
  }
}

/** What a driver keeps of a device from its first attachment on (an SMMUv3's table of contexts) is there afterwards. */
function attachOnce({ kernel, vfio }: ServedKernel, memory: CountedMemory): void {
  const file = new IommufdFile(kernel, memory);
  const ioas = { flags: 0, outIoasId: 0 };
  file.ioasAlloc(ioas);
  for (const device of vfio) {
    const f = new VfioFile(device);
    f.bind(file);
    f.attach(ioas.outIoasId, NO_PASID);
    f.close();
  }
  file.close();
}

/** A program in the emulator's own process, with /dev/iommu open and devices bound. */
export class IoctlProgram implements Caller {
  readonly memory = new PinnedPages();
  readonly bytes = new Uint8Array(ARGUMENT_BYTES);
  readonly #files: KernelFile[] = [];
  readonly #backend: ServedKernel;
  readonly #file: IommufdFile;
  readonly #node: IommufdNode;
  readonly #devices: readonly VfioFile[];
  readonly #pages: number;

  constructor(backend: string, plant: Plant, devices: boolean) {
    this.#backend = plant('kernel', makeBackend(backend));
    const { kernel, vfio } = this.#backend;
    attachOnce(this.#backend, this.memory);
    this.#pages = kernel.memory.pagesUsed;
    this.#file = new IommufdFile(kernel, this.memory);
    this.#node = new IommufdNode(this.#file, this.#backend.test(this.#file));
    this.#devices = devices ? vfio.map((d) => new VfioFile(d)) : [];
    for (const d of this.#devices) if (d.bind(this.#file) !== 0) throw new Finding('a device cannot be bound');
  }

  #at(address: bigint, n: number): number {
    const at = Number(address - BigInt(ARGUMENTS));
    return at >= 0 && at + n <= this.bytes.length ? at : -1;
  }
  read(address: bigint, into: Uint8Array): boolean {
    const at = this.#at(address, into.length);
    if (at >= 0) into.set(this.bytes.subarray(at, at + into.length));
    return at >= 0;
  }
  write(address: bigint, from: Uint8Array): boolean {
    const at = this.#at(address, from.length);
    if (at >= 0) this.bytes.set(from, at);
    return at >= 0;
  }
  install(file: KernelFile): number {
    return 100 + this.#files.push(file) - 1;
  }
  installed(fd: number): KernelFile | number {
    return this.#files[fd - 100] ?? -E.BADF;
  }
  pageFile(): null {
    return null;
  }

  /** @param bytes of the argument, at the start of the program's memory. */
  ioctl(request: number, bytes: Uint8Array): number {
    this.bytes.set(bytes);
    return this.#node.ioctl(request, BigInt(ARGUMENTS), this);
  }

  /** Attaches a bound device to what `id` names, or detaches it. */
  attach(device: number, id: number): number {
    const d = this.#devices[device % Math.max(1, this.#devices.length)];
    if (d === undefined) return 0;
    return id === 0 ? d.detach(NO_PASID) : d.attach(id, NO_PASID);
  }

  /** Everything is closed. @throws Finding something of the program is left. */
  close(): void {
    for (const d of this.#devices) d.close();
    for (const f of this.#files.splice(0)) f.close();
    this.#node.close();
    if (this.memory.pinned.size > 0) throw new Finding('pages of a program that has ended are pinned');
    if (!this.#file.context.objects.empty) throw new Finding('objects of a program that has ended are left');
    const left = this.#backend.kernel.memory.pagesUsed - this.#pages;
    if (left !== 0) throw new Finding(`pages of a program that has ended are in use\n${left}`);
  }
}
