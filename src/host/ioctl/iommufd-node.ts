import type { IommufdFile } from '../iommufd/file.ts';
import type { Caller, KernelFile } from './caller.ts';
import { iommufdIoctl, type TestIoctl } from './iommufd-ioctl.ts';

/** An open /dev/iommu as a program sees it. */
export class IommufdNode implements KernelFile {
  readonly file: IommufdFile;
  readonly #test: TestIoctl | null;

  /** @param test IOMMU_TEST_CMD; null: this kernel has no test driver. */
  constructor(file: IommufdFile, test: TestIoctl | null) {
    this.file = file;
    this.#test = test;
  }

  ioctl(request: number, arg: bigint, caller: Caller): number {
    return iommufdIoctl(this.file, request, arg, caller, this.#test);
  }

  /** mmap(2). @returns 0, then `file.context.mmaps.mapped` is where the region lies; or -errno. */
  mmap(offset: bigint, bytes: number, shared: boolean, prot: number): number {
    return this.file.context.mmaps.map(offset, bytes, shared, prot);
  }
  munmap(offset: bigint): void {
    this.file.context.mmaps.unmap(offset);
  }

  /** The last close: what was mapped is unmapped first. */
  close(): void {
    this.file.context.mmaps.unmapAll();
    this.file.close();
  }
}

/** The iommufd behind a descriptor of the caller, or -EBADF, -EBADFD. */
export function findIommufd(caller: Caller, fd: number, otherwise: number): IommufdFile | number {
  const there = caller.installed(fd);
  if (typeof there === 'number') return there;
  return there instanceof IommufdNode ? there.file : otherwise;
}
