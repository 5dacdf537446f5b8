import { ACCESS } from '../../ports/dma.ts';
import { SHADOW_NEVER, type ShadowTable } from '../../ports/upcalls.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { StageCopy } from '../kernel/driver.ts';
import type { HostKernel } from '../kernel/kernel.ts';
import type { IommufdContext } from './context.ts';
import type { Ioas, IoasCopyStage } from './ioas/ioas.ts';
import { PinnedRuns, type PinUser } from './ioas/pinned-runs.ts';
import type { PagingHwpt } from './paging-hwpt.ts';

const PAGE = 4096;
const RW = ACCESS.READ | ACCESS.WRITE;
const NEVER = SHADOW_NEVER.EXEC_UNPRIV | SHADOW_NEVER.EXEC_PRIV;

/** The pins of an address space, with those who fill tables from them. The last one to leave gives them back. */
function pinsOf(context: IommufdContext, ram: Ioas, hwpt: PagingHwpt): PinnedRuns | number {
  const known = context.pins.get(ram);
  if (known !== undefined) return known;
  const pins = new PinnedRuns(hwpt.domain.iommu);
  const r = ram.addDomain(pins);
  if (r !== 0) return r;
  ram.users++;
  context.pins.set(ram, pins);
  return pins;
}

/**
 * A HWPT, over an IOAS that stays empty, whose table is filled straight from the pins of another IOAS: guest RAM. What the
 * IOAS of the HWPT would refuse to map (reserved regions, its aperture) is refused here too.
 */
export class ShadowCopy implements ShadowTable, PinUser, IoasCopyStage {
  readonly #context: IommufdContext;
  readonly #kernel: HostKernel;
  readonly #hwpt: PagingHwpt;
  readonly #ram: Ioas;
  readonly #pins: PinnedRuns;
  readonly #copy: StageCopy;
  /** The stretch of pages around the last one that is not reserved, and the state of the reservations it is from. */
  #first = 0;
  #end = 0;
  #reservations = -1;

  private constructor(context: IommufdContext, hwpt: PagingHwpt, ram: Ioas, pins: PinnedRuns, copy: StageCopy) {
    this.#context = context;
    this.#kernel = context.kernel;
    this.#hwpt = hwpt;
    this.#ram = ram;
    this.#pins = pins;
    this.#copy = copy;
    pins.users.add(this);
    hwpt.ioas.copies.add(this);
    hwpt.gone = () => this.#release();
  }

  /** @returns -EOPNOTSUPP: its driver does not offer that; -EBUSY: it is in use; -EINVAL: one IOAS for both; what pinning says. */
  static create(context: IommufdContext, hwpt: PagingHwpt, ram: Ioas): ShadowCopy | number {
    if (hwpt.ioas === ram) return -E.INVAL;
    if (hwpt.domain.copyStage === undefined) return -E.OPNOTSUPP;
    if (hwpt.users > 0 || hwpt.ioas.areas.size > 0) return -E.BUSY;
    const pins = pinsOf(context, ram, hwpt);
    if (typeof pins === 'number') return pins;
    const copy = hwpt.domain.copyStage();
    if (typeof copy !== 'number') return new ShadowCopy(context, hwpt, ram, pins, copy);
    leave(context, ram, pins);
    return copy;
  }

  get pages(): number {
    return this.#copy.pages;
  }

  perm(page: number): number {
    return this.#copy.perm(page);
  }

  map(page: number, gpa: number, first: number, end: number, perm: number): number {
    const pins = this.#pins;
    if (!pins.find(gpa)) return -E.FAULT;
    const granted = perm & pins.prot & RW;
    if (granted === 0) return -E.FAULT;
    if (!this.#free(page)) return -E.INVAL;
    const from = Math.max(first, this.#first, page - (gpa - pins.first));
    const to = Math.min(end, this.#end, page + (pins.end - gpa));
    const hpa = pins.hpa + (gpa - pins.first) * PAGE;
    const r = this.#copy.map(page, hpa, from, to, (pins.prot & ~RW) | granted | (perm & NEVER));
    if (this.#kernel.tell !== null) this.#sayMapped(page, gpa, granted, r);
    return r;
  }

  #sayMapped(page: number, gpa: number, perm: number, result: number): void {
    const { mappedFirst, mappedEnd } = this.#copy;
    const first = result < 0 ? page : mappedFirst;
    const pages = result < 0 ? 1 : mappedEnd - mappedFirst;
    this.#say('SHADOW_MAP', { page: first, pages, gpa: gpa - (page - first), perm }, Math.min(result, 0));
  }

  #say(verb: string, args: Readonly<Record<string, number>>, result: number): void {
    this.#kernel.tell?.({ what: 'host', verb, args: { hwpt: this.#hwpt.id, ...args }, result });
  }

  /** Whether a page is not reserved; then the stretch around it is known. */
  #free(page: number): boolean {
    const { ioas } = this.#hwpt;
    if (this.#reservations === ioas.reservations && page >= this.#first && page < this.#end) return true;
    this.#reservations = ioas.reservations;
    for (const { start, last } of ioas.ranges()) {
      this.#first = Math.ceil(Number(start) / PAGE);
      this.#end = Math.floor((Number(last) + 1) / PAGE);
      if (page >= this.#first && page < this.#end) return true;
    }
    this.#end = 0;
    return false;
  }

  unmap(page: number, pages: number): number {
    const r = this.#copy.unmap(page, pages);
    if (this.#kernel.tell !== null) this.#say('SHADOW_UNMAP', { page, pages }, r);
    return r;
  }

  clear(): number {
    const r = this.#copy.clear();
    if (this.#kernel.tell !== null) this.#say('SHADOW_CLEAR', {}, r);
    return r;
  }

  /** Memory leaves the IOAS of guest RAM: its pages may be anywhere in the table, and come back on demand. */
  letGo(): number {
    return this.clear();
  }

  /** A region of the HWPT's IOAS is reserved from now on. */
  reserved(start: bigint, last: bigint): number {
    const first = Number(start / 4096n);
    return this.#copy.unmap(first, Number(last / 4096n) - first + 1);
  }

  #release(): void {
    this.#hwpt.ioas.copies.delete(this);
    this.#pins.users.delete(this);
    leave(this.#context, this.#ram, this.#pins);
  }
}

function leave(context: IommufdContext, ram: Ioas, pins: PinnedRuns): void {
  if (pins.users.size > 0) return;
  context.pins.delete(ram);
  ram.removeDomain(pins);
  ram.users--;
}
