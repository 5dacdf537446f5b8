import { ShadowPieces } from '../../src/lib/shadow/shadow-pieces.ts';
import type { HostVerbs } from '../../src/lib/uapi/host-verbs.ts';
import type { EventFd } from '../../src/ports/iommufd.ts';
import { E } from '../../src/spec/iommufd/errno.ts';
import { HWPT_FLAG } from '../../src/spec/iommufd/uapi.ts';
import type { Smmuv3Core } from './core.ts';
import { Smmuv3Shadow } from './shadow.ts';

/** A stage-1 context the host holds for the guest: one nested HWPT for all streams with the same identity. */
export interface NestedContext {
  readonly hwptId: number;
  readonly domain: Smmuv3Domain;
  /** The words handed over: the identity. */
  readonly vste: readonly [number, number, number, number];
  users: number;
}

/**
 * One stage 2 under guest streams: guest RAM itself (one per guest VMID in use, because two vIOMMUs on one stage 2 share a
 * physical VMID and equal guest ASIDs would meet), or the shadow of a stage 2 that the guest owns.
 */
export class Smmuv3Domain {
  readonly vmid: number;
  /** '' for guest RAM, else the stage-2 words of the STE. */
  readonly key: string;
  readonly hwptId: number;
  readonly shadow: Smmuv3Shadow | null;
  /** 0: not made yet. */
  viommuId = 0;
  abortId = 0;
  bypassId = 0;
  veventqId = 0;
  eventFd: EventFd | null = null;
  /** Streams attached to it or to a context on it, and vDEVICEs in it. */
  users = 0;
  contexts: NestedContext[] = [];

  constructor(vmid: number, key: string, hwptId: number, shadow: Smmuv3Shadow | null) {
    this.vmid = vmid;
    this.key = key;
    this.hwptId = hwptId;
    this.shadow = shadow;
  }
}

const ABORT = [1, 0, 0, 0] as const;
const BYPASS = [1 | (4 << 1), 0, 0, 0] as const;
/** What tells one guest stage 2 from another, in STE words 5 to 7: T0SZ, SL0, TG, PS, AFFD, PTW, HD, HA and S2TTB. */
const S2_KEY_MASKS = [0x01e7_c0ff, ~0xf, 0xf_ffff] as const;

/** The stage 2s of one vSMMU and what stands on them, by guest VMID. Creation returns -errno instead of an object. */
export class Smmuv3Domains {
  readonly #core: Smmuv3Core;
  readonly #host: HostVerbs;
  readonly #pieces: ShadowPieces;
  readonly #byVmid = new Map<number, Smmuv3Domain[]>();
  #all: Smmuv3Domain[] = [];
  /** VMID 0 over guest RAM: made with the first device, kept to the last. Abort and bypass live on it. */
  home: Smmuv3Domain | null = null;
  /** Called for each new vIOMMU (linux-only: it gets an event queue). */
  onViommu: ((domain: Smmuv3Domain) => void) | null = null;

  constructor(core: Smmuv3Core) {
    this.#core = core;
    this.#host = core.host;
    this.#pieces = new ShadowPieces(core.quotas.shadowPieces);
  }

  /** Domains of a guest VMID; undefined: none, and then nothing can be cached for it. */
  of(vmid: number): readonly Smmuv3Domain[] | undefined {
    return this.#byVmid.get(vmid);
  }

  /** Every domain, in order of creation. */
  get all(): readonly Smmuv3Domain[] {
    return this.#all;
  }

  #add(domain: Smmuv3Domain): Smmuv3Domain {
    this.#all.push(domain);
    const list = this.#byVmid.get(domain.vmid);
    if (list === undefined) this.#byVmid.set(domain.vmid, [domain]);
    else list.push(domain);
    return domain;
  }

  /** The stage 2 over guest RAM for a guest VMID, with its vIOMMU. */
  ram(devId: number, vmid: number): Smmuv3Domain | number {
    const known = this.#byVmid.get(vmid)?.find((d) => d.shadow === null);
    if (known !== undefined) return known;
    const hwpt = this.#host.pagingHwpt(devId, this.#core.deps.ioasId, HWPT_FLAG.NEST_PARENT);
    if (hwpt < 0) return hwpt;
    const domain = new Smmuv3Domain(vmid, '', hwpt, null);
    const viommu = this.viommu(devId, domain);
    if (viommu < 0) {
      this.#host.release(hwpt);
      return viommu;
    }
    return this.#add(domain);
  }

  /** The shadow of the stage 2 that an STE of the guest describes. Needs upcalls: without it -EOPNOTSUPP. */
  shadowed(devId: number, vmid: number, ste: Int32Array): Smmuv3Domain | number {
    const upcalls = this.#core.deps.upcalls;
    if (upcalls === null) return -E.OPNOTSUPP;
    const key = S2_KEY_MASKS.map((mask, i) => ste[5 + i]! & mask).join(':');
    const known = this.#byVmid.get(vmid)?.find((d) => d.key === key);
    if (known !== undefined) return known;
    const ioas = this.#host.ioasAlloc();
    if (ioas < 0) return ioas;
    const hwpt = this.#host.pagingHwpt(devId, ioas, HWPT_FLAG.NEST_PARENT);
    if (hwpt < 0) {
      this.#host.release(ioas);
      return hwpt;
    }
    const asked = upcalls.shadow(hwpt, true);
    if (asked < 0) {
      this.#host.release(hwpt);
      this.#host.release(ioas);
      return asked;
    }
    const own = upcalls.shadowTable?.(hwpt, this.#core.deps.ioasId) ?? -E.OPNOTSUPP;
    if (typeof own === 'number' && own !== -E.OPNOTSUPP) {
      this.#core.refusals.note('undoing', upcalls.shadow(hwpt, false));
      this.#host.release(hwpt);
      this.#host.release(ioas);
      return own;
    }
    const shadow = new Smmuv3Shadow(this.#core, ioas, ste, typeof own === 'number' ? null : own, this.#pieces);
    return this.#add(new Smmuv3Domain(vmid, key, hwpt, shadow));
  }

  /** The vIOMMU of a domain, made on first use. @returns its id or -errno. */
  viommu(devId: number, domain: Smmuv3Domain): number {
    if (domain.viommuId > 0) return domain.viommuId;
    const id = this.#host.smmuv3Viommu(devId, domain.hwptId);
    if (id < 0) return id;
    domain.viommuId = id;
    this.onViommu?.(domain);
    return id;
  }

  /** The HWPT of a domain's vIOMMU in which all DMA is refused without a record. @returns its id or -errno. */
  abort(devId: number, domain: Smmuv3Domain): number {
    if (domain.abortId > 0) return domain.abortId;
    const id = this.#fixed(devId, domain, ABORT);
    if (id > 0) domain.abortId = id;
    return id;
  }

  /** The one that lets DMA through to guest-physical addresses. @returns its id or -errno. */
  bypass(devId: number, domain: Smmuv3Domain): number {
    if (domain.bypassId > 0) return domain.bypassId;
    const id = this.#fixed(devId, domain, BYPASS);
    if (id > 0) domain.bypassId = id;
    return id;
  }

  #fixed(devId: number, domain: Smmuv3Domain, vste: readonly number[]): number {
    const viommu = this.viommu(devId, domain);
    return viommu < 0 ? viommu : this.#host.nestedSmmuv3(devId, viommu, vste);
  }

  /** The context with this identity, found or made; the caller becomes a user with `NestedContext.users++`. */
  context(devId: number, domain: Smmuv3Domain, vste: Int32Array): NestedContext | number {
    for (const c of domain.contexts) if (c.vste.every((w, i) => w === vste[i])) return c;
    const viommu = this.viommu(devId, domain);
    if (viommu < 0) return viommu;
    const hwptId = this.#host.nestedSmmuv3(devId, viommu, vste);
    if (hwptId < 0) return hwptId;
    const context: NestedContext = { hwptId, domain, vste: [vste[0]!, vste[1]!, vste[2]!, vste[3]!], users: 0 };
    domain.contexts.push(context);
    return context;
  }

  /** Frees a context whose last user is gone. */
  releaseContext(context: NestedContext): void {
    if (context.users > 0) return;
    const list = context.domain.contexts;
    const at = list.indexOf(context);
    if (at >= 0) list.splice(at, 1);
    this.#host.release(context.hwptId);
  }

  /** Frees a domain nobody uses, leaf first. `home` stays until `close`. */
  release(domain: Smmuv3Domain): void {
    if (domain.users > 0 || domain.contexts.length > 0 || domain === this.home) return;
    this.#free(domain);
  }

  #free(domain: Smmuv3Domain): void {
    domain.eventFd?.close();
    for (const id of [domain.veventqId, domain.bypassId, domain.abortId, domain.viommuId]) {
      if (id > 0) this.#host.release(id);
    }
    if (domain.shadow !== null) {
      this.#core.refusals.note('undoing', this.#core.deps.upcalls?.shadow(domain.hwptId, false) ?? 0);
    }
    this.#host.release(domain.hwptId);
    if (domain.shadow !== null) {
      this.#host.release(domain.shadow.ioasId);
      domain.shadow.gone();
    }
    this.#all = this.#all.filter((d) => d !== domain);
    const list = this.#byVmid.get(domain.vmid)!.filter((d) => d !== domain);
    if (list.length > 0) this.#byVmid.set(domain.vmid, list);
    else this.#byVmid.delete(domain.vmid);
  }

  /** The last device is gone: everything goes. */
  close(): void {
    this.home = null;
    for (const domain of this.#all) this.#free(domain);
  }
}
