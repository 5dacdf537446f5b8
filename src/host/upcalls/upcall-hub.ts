import { HW_ERROR } from '../../ports/hw.ts';
import type { UpcallHandlers } from '../../ports/upcalls.ts';
import type { HostDevice, PagingDomain } from '../kernel/driver.ts';
import type { DriverUpcalls, UpcallDriver } from './driver-upcalls.ts';

/** Whose answer is missing, as it was when the invalidation was sent. */
interface Awaited {
  readonly handlers: UpcallHandlers;
  readonly devId: number;
  readonly stream: number;
  readonly pasid: number;
}

interface Outstanding {
  readonly driver: object;
  readonly token: number;
  /** By requester id. */
  readonly awaited: Map<number, Awaited>;
}

/**
 * The middle of the way from the drivers back to the device models, one per kernel: who listens for which device, which
 * second stages are shadows, and which invalidations are still on their way. Drivers see it as `DriverUpcalls`; device models reach it through `ContextUpcalls`.
 */
export class UpcallHub implements DriverUpcalls {
  readonly #listeners = new Map<HostDevice, UpcallHandlers>();
  readonly #drivers = new Map<object, UpcallDriver>();
  readonly #shadows = new WeakSet<PagingDomain>();
  readonly #outstanding: Outstanding[] = [];
  /** Drivers whose unit refused an invalidation. */
  readonly #unconfirmed = new Set<object>();
  /** How many of them each listener waits for. */
  readonly #counts = new WeakMap<UpcallHandlers, number>();

  /** A driver that offers more than Linux. */
  register(driver: UpcallDriver): void {
    this.#drivers.set(driver.iommu, driver);
  }

  /** The driver behind a device, if it registered; null: Linux's verbs are all there is. */
  driverOf(dev: HostDevice): UpcallDriver | null {
    return this.#drivers.get(dev.iommu) ?? null;
  }

  /** The last listener of a device counts. @returns takes it back. */
  listen(devs: readonly HostDevice[], handlers: UpcallHandlers): () => void {
    for (const dev of devs) {
      this.#listeners.set(dev, handlers);
      this.driverOf(dev)?.served(dev, true);
    }
    return () => {
      for (const dev of devs) {
        if (this.#listeners.get(dev) !== handlers) continue;
        this.#listeners.delete(dev);
        this.driverOf(dev)?.served(dev, false);
      }
    };
  }

  /** Misses of this second stage come back as `onStageTwoMiss`, or no longer. */
  shadow(domain: PagingDomain, on: boolean): void {
    if (on) this.#shadows.add(domain);
    else this.#shadows.delete(domain);
  }

  serves(dev: HostDevice): boolean {
    return this.#listeners.has(dev);
  }

  streamMiss(dev: HostDevice, stream: number, pasid: number): boolean {
    return this.#listeners.get(dev)?.onStreamMiss?.(dev.devId, stream, pasid) ?? false;
  }

  stageTwoMiss(
    dev: HostDevice,
    domain: PagingDomain,
    stream: number,
    pasid: number,
    ipa: number,
    access: number,
    lo: number,
    hi: number,
  ): boolean {
    if (!this.#shadows.has(domain)) return false;
    const handlers = this.#listeners.get(dev);
    return handlers?.onStageTwoMiss?.(dev.devId, stream, pasid, ipa, access, lo, hi) ?? false;
  }

  fault(dev: HostDevice, stream: number, record: Int32Array, ats = false): boolean {
    const handlers = this.#listeners.get(dev);
    if (handlers?.onFault === undefined) return false;
    handlers.onFault(dev.devId, stream, record, ats);
    return true;
  }

  pageRequest(dev: HostDevice, stream: number, record: Int32Array): boolean {
    return this.#listeners.get(dev)?.onPageRequest?.(dev.devId, stream, record) ?? false;
  }

  invalidateError(dev: HostDevice, error: number, stream: number, pasid: number): void {
    this.#listeners.get(dev)?.onInvalidateError?.(dev.devId, error, stream, pasid);
  }

  pending(dev: HostDevice, driver: object, token: number, rid: number, pasid: number): void {
    const handlers = this.#listeners.get(dev);
    if (handlers === undefined) return;
    let open = this.#outstanding.find((o) => o.driver === driver && o.token === token);
    if (open === undefined) {
      open = { driver, token, awaited: new Map() };
      this.#outstanding.push(open);
    }
    if (open.awaited.has(rid)) return;
    if (![...open.awaited.values()].some((a) => a.handlers === handlers)) this.#count(handlers, 1);
    open.awaited.set(rid, { handlers, devId: dev.devId, stream: dev.streams.indexOf(rid), pasid });
  }

  completed(driver: object, token: number, error: number, rid: number): void {
    const at = this.#outstanding.findIndex((o) => o.driver === driver && o.token === token);
    if (at < 0) return;
    const [{ awaited }] = this.#outstanding.splice(at, 1) as [Outstanding];
    const late = error === HW_ERROR.NONE ? undefined : awaited.get(rid);
    late?.handlers.onInvalidateError?.(late.devId, error, late.stream, late.pasid);
    for (const handlers of new Set([...awaited.values()].map((a) => a.handlers))) {
      this.#count(handlers, -1);
      if (this.outstanding(handlers) === 0) handlers.onDrained?.();
    }
  }

  unconfirmed(driver: object, some: boolean): void {
    if (some) this.#unconfirmed.add(driver);
    else this.#unconfirmed.delete(driver);
  }

  /** See HostUpcalls.confirm. */
  confirm(handlers: UpcallHandlers): number {
    if (this.#unconfirmed.size === 0) return 0;
    let result = 0;
    for (const iommu of [...this.#unconfirmed]) {
      const concerned = [...this.#listeners].some(([dev, h]) => h === handlers && dev.iommu === iommu);
      if (concerned) result = this.#drivers.get(iommu)?.confirm() || result;
    }
    return result;
  }

  /** What a listener waits for is nobody's business any more: neither its end nor its errors. */
  abandon(handlers: UpcallHandlers): void {
    for (const { awaited } of this.#outstanding) {
      for (const [rid, a] of awaited) if (a.handlers === handlers) awaited.delete(rid);
    }
    this.#count(handlers, -this.outstanding(handlers));
  }

  /** Submissions whose completions a listener still waits for. */
  outstanding(handlers: UpcallHandlers): number {
    return this.#counts.get(handlers) ?? 0;
  }

  #count(handlers: UpcallHandlers, change: number): void {
    if (change === 0) return;
    this.#counts.set(handlers, this.outstanding(handlers) + change);
    handlers.onAwaited?.(change);
  }
}
