import type { UpcallHandlers } from '../../ports/upcalls.ts';
import type { HostDevice, PagingDomain } from '../kernel/driver.ts';
import type { DriverUpcalls, UpcallDriver } from './driver-upcalls.ts';

interface Outstanding {
  readonly driver: object;
  readonly token: number;
  readonly listeners: Set<UpcallHandlers>;
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

  fault(dev: HostDevice, stream: number, record: Int32Array): boolean {
    const handlers = this.#listeners.get(dev);
    if (handlers?.onFault === undefined) return false;
    handlers.onFault(dev.devId, stream, record);
    return true;
  }

  pageRequest(dev: HostDevice, stream: number, record: Int32Array): boolean {
    return this.#listeners.get(dev)?.onPageRequest?.(dev.devId, stream, record) ?? false;
  }

  invalidateError(dev: HostDevice, error: number, stream: number): void {
    this.#listeners.get(dev)?.onInvalidateError?.(dev.devId, error, stream);
  }

  pending(dev: HostDevice, driver: object, token: number): void {
    const handlers = this.#listeners.get(dev);
    if (handlers === undefined) return;
    const open = this.#outstanding.find((o) => o.driver === driver && o.token === token);
    if (open !== undefined) open.listeners.add(handlers);
    else this.#outstanding.push({ driver, token, listeners: new Set([handlers]) });
  }

  completed(driver: object, token: number): void {
    const at = this.#outstanding.findIndex((o) => o.driver === driver && o.token === token);
    if (at < 0) return;
    const [done] = this.#outstanding.splice(at, 1);
    for (const handlers of done!.listeners) if (this.outstanding(handlers) === 0) handlers.onDrained?.();
  }

  /** Submissions whose completions a listener still waits for. */
  outstanding(handlers: UpcallHandlers): number {
    let n = 0;
    for (const o of this.#outstanding) if (o.listeners.has(handlers)) n++;
    return n;
  }
}
