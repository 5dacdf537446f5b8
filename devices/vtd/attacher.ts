import { ListedMap } from '../../src/lib/collections/listed-map.ts';
import { VtdContext, VtdRegime } from '../../src/lib/walk/vtd-regime.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import type { VfioDevice } from '../../src/ports/iommufd.ts';
import { TTM } from '../../src/spec/vtd/registers.ts';
import type { TableRoot } from './backend.ts';
import type { VtdDomain, VtdDomains } from './domains.ts';
import type { PasidMode } from './pasid-modes.ts';
import type { TableReader } from './qemu/tables.ts';

/** One (device, PASID) that is attached because the guest's tables say so. */
export interface Slot {
  /** NO_PASID: the requester id itself. */
  readonly pasid: number;
  /** Index of its PASID entry. */
  readonly index: number;
  readonly did: number;
  readonly domain: VtdDomain;
  /** Host PASIDs the domain is attached under. */
  readonly host: readonly number[];
}

/** One function of the VM with what each of its PASIDs is attached to. */
export class Stream {
  readonly rid: number;
  readonly aliases: readonly number[];
  readonly vfio: VfioDevice;
  /** log2 of the PASIDs the physical function has; 0: none. */
  readonly pasidBits: number;
  readonly slots = new ListedMap<number, Slot>();
  readonly mode: PasidMode;
  /** iommufd's fault queue, as long as the function can be attached with it (it needs PRI); 0: none. */
  faultId: number;
  /** Translation is off and the RID sits on the parent. */
  bypass = false;

  constructor(
    rid: number,
    aliases: readonly number[],
    vfio: VfioDevice,
    pasidBits: number,
    mode: PasidMode,
    faultId = 0,
  ) {
    this.mode = mode;
    this.faultId = faultId;
    this.rid = rid;
    this.aliases = aliases;
    this.vfio = vfio;
    this.pasidBits = pasidBits;
  }

  /** Guest requester id of stream `i` of the function. */
  ridOf(i: number): number {
    return i === 0 ? this.rid : (this.aliases[i - 1] ?? this.rid);
  }
}

/** Reads the guest's configuration of a stream and makes the host follow it: attach, replace, detach. */
export class Configurator {
  readonly context = new VtdContext();
  readonly #regime = new VtdRegime();
  readonly #root: TableRoot;
  readonly #tables: TableReader;
  readonly #domains: VtdDomains;

  constructor(root: TableRoot, tables: TableReader, domains: VtdDomains) {
    this.#root = root;
    this.#tables = tables;
    this.#domains = domains;
  }

  /** Finds what (rid, pasid) translates with. Null: nothing valid (the record is made elsewhere). */
  lookup(rid: number, pasid: number): VtdRegime | null {
    const { mode, base } = this.#root;
    if (mode === TTM.ABORT || mode === TTM.RESERVED) return null;
    const c = this.context;
    if (!this.#tables.context(base, mode === TTM.SCALABLE, rid, c)) return null;
    if (!c.scalable) return pasid === NO_PASID ? c.legacy : null;
    if (pasid !== NO_PASID && !this.#tables.allowsPasid(c, pasid)) return null;
    const index = pasid === NO_PASID ? c.ridPasid : pasid;
    return this.#tables.pasid(c, index, this.#regime) ? this.#regime : null;
  }

  /**
   * Makes (stream, pasid) what the guest's tables say now.
   * @returns whether it is attached to something valid.
   */
  configure(s: Stream, pasid: number): boolean {
    const r = this.lookup(s.rid, pasid);
    if (r === null) {
      this.detach(s, pasid);
      return false;
    }
    const old = s.slots.get(pasid);
    if (old !== undefined && old.domain.key === this.#domains.keyOf(r, s.faultId)) return true;
    const domain = this.#domains.acquire(s.vfio.devId, r, s.faultId);
    if (typeof domain === 'number') return false;
    const slot = { pasid, index: r.pasid, did: r.did, domain };
    const host = old?.host ?? s.mode.acquire(pasid);
    if (host === null || !this.#attach(s, host, domain.hwptId, old?.domain.hwptId)) {
      if (host !== null && old === undefined) s.mode.release(pasid);
      this.#domains.release(domain);
      if (s.faultId === 0) return false;
      // A function without PRI cannot be attached to a HWPT with a fault queue (ENODEV).
      s.faultId = 0;
      return this.configure(s, pasid);
    }
    s.slots.set(pasid, { ...slot, host });
    if (old !== undefined) this.#domains.release(old.domain);
    return true;
  }

  /** All of `host` or none: after a refusal the ones done before go back to `before`. */
  #attach(s: Stream, host: readonly number[], hwptId: number, before: number | undefined): boolean {
    for (let i = 0; i < host.length; i++) {
      if (s.vfio.attach(hwptId, host[i]!) === 0) continue;
      for (let k = 0; k < i; k++) {
        if (before === undefined) s.vfio.detach(host[k]!);
        else s.vfio.attach(before, host[k]!);
      }
      return false;
    }
    return true;
  }

  detach(s: Stream, pasid: number): void {
    const slot = s.slots.get(pasid);
    if (slot === undefined) return;
    s.slots.delete(pasid);
    for (const host of slot.host) s.vfio.detach(host);
    s.mode.release(pasid);
    this.#domains.release(slot.domain);
  }

  /** Everything of a stream goes: PASIDs first, as VFIO does. */
  detachAll(s: Stream): void {
    for (const pasid of s.slots.keys()) if (pasid !== NO_PASID) this.detach(s, pasid);
    this.detach(s, NO_PASID);
  }

  /** Translation off: the stream sees guest RAM. */
  bypass(s: Stream): void {
    for (const pasid of s.slots.keys()) if (pasid !== NO_PASID) this.detach(s, pasid);
    const old = s.slots.get(NO_PASID);
    const parent = this.#domains.parent(s.vfio.devId);
    const own = s.mode.toHost(NO_PASID)[0]!;
    if (!s.bypass && typeof parent !== 'number') s.bypass = s.vfio.attach(parent.hwptId, own) === 0;
    s.slots.delete(NO_PASID);
    if (old !== undefined) this.#domains.release(old.domain);
  }

  /** Translation on: nothing is given, so the hardware asks. */
  unset(s: Stream): void {
    this.detachAll(s);
    if (s.bypass) s.vfio.detach(s.mode.toHost(NO_PASID)[0]!);
    s.bypass = false;
  }
}
