import type { HostMemory } from '../../../lib/memory/host-memory.ts';
import type { PageFile } from '../../../ports/iommufd.ts';
import type { KernelFile } from '../../ioctl/caller.ts';
import { AccessObject } from '../../iommufd/access.ts';
import type { IommufdContext } from '../../iommufd/context.ts';

interface PinnedItem {
  readonly id: number;
  readonly iova: bigint;
  readonly length: bigint;
}

/** The file of a test access: an in-kernel user of an IOAS that a program drives. */
export class AccessFile implements KernelFile {
  readonly access: AccessObject;
  readonly pins: boolean;
  readonly #context: IommufdContext;
  readonly #items: PinnedItem[] = [];
  #nextItem = 0;
  #open = true;

  /** @returns null: no memory. */
  static make(context: IommufdContext, pins: boolean): AccessFile | null {
    const id = context.objects.reserve();
    return id === 0 ? null : new AccessFile(context, pins, id);
  }

  private constructor(context: IommufdContext, pins: boolean, id: number) {
    this.#context = context;
    this.pins = pins;
    this.access = new AccessObject(context.kernel.physical, pins, (start, last) => this.#release(start, last));
    this.access.id = id;
    context.objects.publish(this.access);
    context.hold();
  }

  /** Unmapping takes pages away that are still pinned: everything that touches the range is given back. */
  #release(start: bigint, last: bigint): void {
    for (let i = this.#items.length - 1; i >= 0; i--) {
      const { iova, length } = this.#items[i]!;
      if (iova > last || iova + length - 1n < start) continue;
      this.#items.splice(i, 1);
      this.access.unpin(iova, length);
    }
  }

  /** Remembers what was pinned. @returns the item's id. */
  keep(iova: bigint, length: bigint): number {
    const id = this.#nextItem++;
    this.#items.push({ id, iova, length });
    return id;
  }

  /** Unpins an item. @returns false: there is none. */
  drop(id: number): boolean {
    const i = this.#items.findIndex((x) => x.id === id);
    if (i < 0) return false;
    const [item] = this.#items.splice(i, 1);
    this.access.unpin(item!.iova, item!.length);
    return true;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#release(0n, 0xffff_ffff_ffff_ffffn);
    this.access.users--;
    this.#context.objects.remove(this.access);
    this.#context.drop();
  }
}

/** A dma-buf of kernel memory that its exporter (a test command) can revoke. */
export class MockDmabuf implements PageFile, KernelFile {
  readonly kind = 'dmabuf';
  readonly size: bigint;
  hpa = 0;
  run = 0;
  revoked = false;
  readonly #memory: HostMemory;
  readonly #base: number;
  readonly #pages: number;
  readonly #listeners = new Set<() => void>();
  #open = true;

  /** @returns null: no memory. */
  static make(memory: HostMemory, bytes: number): MockDmabuf | null {
    const base = memory.allocate(bytes / 4096);
    return base < 0 ? null : new MockDmabuf(memory, base, bytes / 4096);
  }

  constructor(memory: HostMemory, base: number, pages: number) {
    this.#memory = memory;
    this.#base = base;
    this.#pages = pages;
    this.size = BigInt(pages * 4096);
  }

  pin(offset: bigint, bytes: bigint): boolean {
    if (offset + bytes > this.size) return false;
    this.hpa = this.#base + Number(offset);
    this.run = Number(bytes);
    return true;
  }

  onRevoke(tell: () => void): () => void {
    this.#listeners.add(tell);
    return () => void this.#listeners.delete(tell);
  }

  revoke(on: boolean): void {
    this.revoked = on;
    for (const tell of [...this.#listeners]) tell();
  }

  close(): void {
    if (this.#open) this.#memory.free(this.#base, this.#pages);
    this.#open = false;
  }
}
