import { ViommuError } from '../../src/core/errors.ts';
import type { HostVerbs, VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import type { UpcallHandlers } from '../../src/ports/upcalls.ts';
import { E, errnoName } from '../../src/spec/iommufd/errno.ts';
import { CR0, GBPA, PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import {
  CONFIG,
  EATS,
  S1_IDENTITY_MASK,
  steConfig,
  steEats,
  steS1Enabled,
  steS2Vmid,
} from '../../src/spec/smmuv3/ste.ts';
import type { Smmuv3Core } from './core.ts';
import type { AttachedDevice } from './deps.ts';
import type { NestedContext, Smmuv3Domain, Smmuv3Domains } from './domains.ts';
import { missingOnHost } from './host-features.ts';
import { Smmuv3Stream, type StreamSaved, type StreamState } from './stream.ts';
import type { Smmuv3Tables } from './tables.ts';

/** Streams of the guest and their way to the host: what is attached when, vDEVICEs, moves between vIOMMUs. */
export class Smmuv3Streams {
  readonly #core: Smmuv3Core;
  readonly #host: HostVerbs;
  readonly #domains: Smmuv3Domains;
  readonly #table: Smmuv3Tables;
  readonly #list: Smmuv3Stream[] = [];
  readonly #bySid = new Map<number, Smmuv3Stream>();
  readonly #byDev = new Map<number, Smmuv3Stream>();
  readonly #vste = new Int32Array(4);
  /** The last `configure` found the context in force: the hardware must look at its memory again. */
  unchanged = false;

  constructor(core: Smmuv3Core, domains: Smmuv3Domains, table: Smmuv3Tables) {
    this.#core = core;
    this.#host = core.host;
    this.#domains = domains;
    this.#table = table;
  }

  get list(): readonly Smmuv3Stream[] {
    return this.#list;
  }

  bySid(sid: number): Smmuv3Stream | undefined {
    return this.#bySid.get(sid);
  }

  byDev(devId: number): Smmuv3Stream | undefined {
    return this.#byDev.get(devId);
  }

  /**
   * Takes a device in.
   * @throws ViommuError `EINVAL` no StreamID; `EBUSY` one is taken; `EIO` the host refuses the device; `EOPNOTSUPP` its SMMU
   *   lacks something the guest is shown.
   */
  add(device: AttachedDevice, handlers: UpcallHandlers): Smmuv3Stream {
    if (device.sids.length === 0) throw new ViommuError('EINVAL', 'caller', 'a device needs a StreamID');
    const taken = device.sids.find((sid) => this.#bySid.has(sid));
    if (taken !== undefined) throw new ViommuError('EBUSY', 'caller', 'StreamID is taken', { sid: taken });
    this.#must(this.#host.bind(device.vfio), 'bind');
    const devId = device.vfio.devId;
    this.#compare(devId);
    if (this.#domains.home === null) {
      const home = this.#domains.ram(devId, 0);
      if (typeof home === 'number') this.#must(home, 'nest parent');
      else this.#domains.home = home;
    }
    const s = new Smmuv3Stream(device);
    this.#list.push(s);
    for (const sid of s.sids) this.#bySid.set(sid, s);
    this.#byDev.set(devId, s);
    if (this.#core.deps.upcalls !== null) s.unserve = this.#core.deps.upcalls.serve([devId], handlers);
    if (!this.#enabled()) {
      const r = this.#policy(s);
      if (r < 0) {
        this.remove(s);
        this.#must(r, 'attach');
      }
    }
    return s;
  }

  /** The hardware must be able to do what the guest is shown, before the guest can rely on it. */
  #compare(devId: number): void {
    const idr = this.#host.smmuv3Info(devId);
    if (typeof idr === 'number') {
      this.#must(idr, 'GET_HW_INFO');
      return;
    }
    const missing = missingOnHost(this.#core.identity, idr);
    if (missing === null) return;
    throw new ViommuError('EOPNOTSUPP', 'host', 'the physical SMMU does not match what the guest is shown', {
      field: missing,
    });
  }

  #must(result: number, what: string): void {
    if (result < 0) throw new ViommuError('EIO', 'host', `${what} refused: ${errnoName(result)}`, { result });
  }

  /**
   * Takes a device out; with the last one every host object of this vSMMU goes.
   * @throws ViommuError `EIO` the host refuses to detach the device.
   */
  remove(s: Smmuv3Stream): void {
    const at = this.#list.indexOf(s);
    if (at < 0) return;
    this.#list.splice(at, 1);
    const detached = this.#host.detach(s.vfio);
    this.#settle(s, 'unset', null, null);
    this.#dropVdevice(s);
    s.unserve();
    for (const sid of s.sids) this.#bySid.delete(sid);
    this.#byDev.delete(s.vfio.devId);
    if (this.#list.length === 0) this.#domains.close();
    this.#must(detached, 'detach');
  }

  #enabled(): boolean {
    return this.#core.registers.enabled(CR0.SMMUEN);
  }

  /** SMMUEN=0: every stream bypasses or aborts as GBPA says (IHI 0070 §6.3.14). */
  applyPolicy(): void {
    for (const s of this.#list) this.#policy(s);
  }

  #policy(s: Smmuv3Stream): number {
    const home = this.#domains.home!;
    const abort = (this.#core.registers.get(PAGE0.GBPA.at) & GBPA.ABORT) !== 0;
    const id = abort ? this.#domains.abort(s.vfio.devId, home) : this.#domains.bypass(s.vfio.devId, home);
    return this.#attach(s, id, 'policy', null, null);
  }

  /** Every stream is to be configured on its next use. */
  unsetAll(): void {
    for (const s of this.#list) this.#unset(s);
  }

  #unset(s: Smmuv3Stream): VerbOutcome {
    if (s.state === 'unset') return 0;
    const r = this.#host.detach(s.vfio);
    if (r < 0) {
      // What was attached must not go on translating: the stream aborts until its next configuration.
      const aborted = this.#attach(s, this.#domains.abort(s.vfio.devId, this.#domains.home!), 'abort', null, null);
      return aborted < 0 ? aborted : r;
    }
    this.#settle(s, 'unset', null, null);
    return 0;
  }

  /** Attaches `hwptId` (or passes its -errno on) and then lets go of what was there. */
  #attach(
    s: Smmuv3Stream,
    hwptId: number,
    state: StreamState,
    context: NestedContext | null,
    domain: Smmuv3Domain | null,
  ): number {
    if (hwptId < 0) return hwptId;
    const r = s.vfio.ptId === hwptId && s.state !== 'unset' ? 0 : this.#host.attach(s.vfio, hwptId);
    if (r < 0) return r;
    this.#settle(s, state, context, domain);
    return 0;
  }

  #settle(s: Smmuv3Stream, state: StreamState, context: NestedContext | null, domain: Smmuv3Domain | null): void {
    const oldContext = s.context;
    const oldDomain = s.domain;
    s.state = state;
    s.context = context;
    s.domain = domain;
    if (context !== null) context.users++;
    if (domain !== null) domain.users++;
    if (oldContext !== null) {
      oldContext.users--;
      this.#domains.releaseContext(oldContext);
      this.#domains.release(oldContext.domain);
    }
    if (oldDomain !== null) {
      oldDomain.users--;
      this.#domains.release(oldDomain);
    }
  }

  /** CFGI_STE. @returns 0 or -errno of the host; an unknown StreamID is nothing. */
  invalidate(sid: number): number {
    const s = this.#bySid.get(sid);
    this.unchanged = false;
    return s === undefined ? 0 : this.#refresh(s, sid);
  }

  /** The stream gets its vDEVICE, whatever its STE says, and what the STE says now. */
  #refresh(s: Smmuv3Stream, sid: number): number {
    const r = this.#enabled() ? this.configure(s, sid) : 0;
    const tied = s.vdeviceId === 0 ? this.#tie(s, this.#domains.home!) : 0;
    return r < 0 ? r : tied;
  }

  /** First use of a stream without configuration. @returns whether it has one now. */
  firstUse(devId: number, index: number): boolean {
    const s = this.#byDev.get(devId);
    if (s === undefined || s.state !== 'unset') return false;
    if (!this.#enabled()) return this.#policy(s) === 0;
    return this.configure(s, s.sidOf(index)) === 0 && (s.state as StreamState) !== 'unset';
  }

  /**
   * Reads the guest's entry and puts the host into its state. A bad entry leaves the stream unset: each use is reported and
   * looked at again.
   * @returns 0 or -errno.
   */
  configure(s: Smmuv3Stream, sid: number): number {
    this.unchanged = false;
    if (this.#table.lookup(sid) !== 0) {
      const r = this.#unset(s);
      return this.#core.deviations.badSteIsIll && this.#core.deps.properties.accel ? -E.IO : r;
    }
    return this.#apply(s, sid);
  }

  /** Puts the host into the state that the (valid) entry in the table's `ste` asks for. */
  #apply(s: Smmuv3Stream, sid: number): number {
    const devId = s.vfio.devId;
    const ste = this.#table.ste;
    s.ste.set(ste);
    s.sid = sid;
    const home = this.#domains.home!;
    switch (steConfig(ste, 0)) {
      case CONFIG.BYPASS:
        return this.#attach(s, this.#domains.bypass(devId, home), 'bypass', null, null);
      case CONFIG.S1:
        return this.#stage1(s, 's1', this.#domains.ram(devId, this.#core.features.s2p ? steS2Vmid(ste, 0) : 0));
      case CONFIG.S2: {
        const shadow = this.#domains.shadowed(devId, steS2Vmid(ste, 0), ste);
        if (typeof shadow === 'number') return shadow;
        if (s.domain === shadow) return 0;
        const r = this.#attach(s, shadow.hwptId, 's2', null, shadow);
        if (r < 0) this.#domains.release(shadow);
        return r;
      }
      case CONFIG.NESTED:
        return this.#stage1(s, 'nested', this.#domains.shadowed(devId, steS2Vmid(ste, 0), ste));
      default:
        return this.#attach(s, this.#domains.abort(devId, home), 'abort', null, null);
    }
  }

  #stage1(s: Smmuv3Stream, state: StreamState, domain: Smmuv3Domain | number): number {
    if (typeof domain === 'number') return domain;
    this.#identity(s.ste);
    const c = s.context;
    if (c !== null && s.state === state && c.domain === domain && c.vste.every((w, i) => w === this.#vste[i])) {
      this.unchanged = true;
      return 0;
    }
    domain.users++;
    const before = s.state;
    const r = this.#attachContext(s, state, domain);
    if (r < 0 && s.state === 'abort' && before !== 'abort') {
      // The move failed half-way: the stream must not stay on an HWPT of a domain that may go.
      this.#attach(s, this.#domains.abort(s.vfio.devId, this.#domains.home!), 'abort', null, null);
    }
    domain.users--;
    this.#domains.release(domain);
    return r;
  }

  #attachContext(s: Smmuv3Stream, state: StreamState, domain: Smmuv3Domain): number {
    const tied = this.#tie(s, domain);
    if (tied < 0) return tied;
    const context = this.#domains.context(s.vfio.devId, domain, this.#vste);
    if (typeof context === 'number') return context;
    const r = this.#attach(s, context.hwptId, state, context, null);
    if (r < 0) this.#domains.releaseContext(context);
    return r;
  }

  /** What the host takes of an STE, without what this SMMU ignores (fields of absent features; EATS other than full). */
  #identity(ste: Int32Array): void {
    const v = this.#vste;
    for (let i = 0; i < 4; i++) v[i] = ste[i]! & S1_IDENTITY_MASK[i as 0 | 1 | 2 | 3];
    if (steS1Enabled(ste, 0)) v[0] = (v[0]! & ~0xe) | (CONFIG.S1 << 1);
    if (this.#core.features.ssidSize === 0) {
      v[0] = v[0]! & ~0x30;
      v[1] = v[1]! & 0xf_ffff;
      v[2] = v[2]! & ~3;
    }
    if (!this.#core.features.ats || steEats(ste, 0) !== EATS.FULL) v[2] = v[2]! & ~(3 << 28);
  }

  /** Ties the guest's StreamID to the device in the domain's vIOMMU, moving it there if it is tied elsewhere. */
  #tie(s: Smmuv3Stream, domain: Smmuv3Domain): number {
    if (s.vdeviceId > 0 && s.vdeviceIn === domain) return 0;
    const devId = s.vfio.devId;
    const viommu = this.#domains.viommu(devId, domain);
    if (viommu < 0) return viommu;
    if (s.vdeviceId > 0) {
      // Nothing may translate while the name changes hands: the new vIOMMU's abort HWPT bridges the move.
      const r = this.#attach(s, this.#domains.abort(devId, domain), 'abort', null, null);
      if (r < 0) return r;
      this.#dropVdevice(s);
    }
    const id = this.#host.vdevice(viommu, devId, s.sids[0]!);
    if (id < 0) return id;
    s.vdeviceId = id;
    s.vdeviceIn = domain;
    domain.users++;
    if (s.sids.length === 1 || this.#core.deps.upcalls === null) return 0;
    return this.#core.deps.upcalls.mapStreams(id, s.sids);
  }

  #dropVdevice(s: Smmuv3Stream): void {
    const domain = s.vdeviceIn;
    if (s.vdeviceId > 0) this.#host.release(s.vdeviceId);
    s.vdeviceId = 0;
    s.vdeviceIn = null;
    if (domain === null) return;
    domain.users--;
    this.#domains.release(domain);
  }

  save(): StreamSaved[] {
    return this.#list.map((s) => ({
      sids: [...s.sids],
      state: s.state,
      ste: Array.from(s.ste),
      sid: s.sid,
      tied: s.vdeviceId > 0,
    }));
  }

  /**
   * Makes the host objects of a saved machine anew: configured streams from the entries that were in force, the others from
   * the registers. @throws ViommuError `EINVAL` other devices are plugged in; `EIO` the host refuses.
   */
  load(list: readonly StreamSaved[]): void {
    for (const saved of list) {
      const s = this.#bySid.get(saved.sids[0]!);
      if (s === undefined) throw new ViommuError('EINVAL', 'caller', 'no such device', { sid: saved.sids[0]! });
      if (saved.tied && s.vdeviceId === 0) this.#must(this.#tie(s, this.#domains.home!), 'vDEVICE');
      if (!this.#enabled()) {
        this.#must(this.#policy(s), 'attach');
        continue;
      }
      this.#must(this.#unset(s), 'detach');
      if (saved.state === 'unset' || saved.state === 'policy') continue;
      this.#table.ste.set(saved.ste);
      this.#must(this.#apply(s, saved.sid), 'configuration');
    }
  }
}
