import type { HostVerbs, VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { E } from '../../src/spec/iommufd/errno.ts';
import {
  CONFIG,
  EATS,
  S1_IDENTITY_MASK,
  STE_WORDS,
  steConfig,
  steEats,
  steS1Enabled,
  steS2Vmid,
} from '../../src/spec/smmuv3/ste.ts';
import type { Smmuv3Core } from './core.ts';
import type { NestedContext, Smmuv3Domain, Smmuv3Domains } from './domains.ts';
import type { Smmuv3Stream, StreamState } from './stream.ts';
import { Smmuv3StreamHost } from './stream-host.ts';

/** The entry asks for the context that is in force already: the hardware has to look at its memory again. */
export const UNCHANGED = 1;

/** STE.V. */
const V = 1;

/** How the configuration of a stream comes into force on the host: what is attached, and which vIOMMU knows the StreamID. */
export class Smmuv3Attachments {
  readonly #core: Smmuv3Core;
  readonly #host: HostVerbs;
  readonly #streams: Smmuv3StreamHost;
  readonly #domains: Smmuv3Domains;
  readonly #vste = new Int32Array(4);
  /** The entry that was in force before the one in hand. */
  readonly #before = new Int32Array(STE_WORDS);

  constructor(core: Smmuv3Core, domains: Smmuv3Domains) {
    this.#core = core;
    this.#host = core.host;
    const abort = (devId: number) => domains.abort(devId, domains.home!);
    this.#streams = new Smmuv3StreamHost(core, abort, (s, like) => this.#nameLike(s, like));
    this.#domains = domains;
  }

  /** Attaches `hwptId` (or passes its -errno on) and then lets go of what was there. @returns 0, APART, or -errno. */
  #attach(
    s: Smmuv3Stream,
    hwptId: number,
    state: StreamState,
    context: NestedContext | null,
    domain: Smmuv3Domain | null,
  ): VerbOutcome {
    if (hwptId < 0) return hwptId;
    const r = s.hwptId === hwptId && s.state !== 'unset' && !s.shared ? 0 : this.#streams.attach(s, hwptId);
    if (r < 0) return r;
    this.#settle(s, state, context, domain);
    return r;
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

  /** Nothing is attached: the hardware asks when the stream is used next. @returns 0 or -errno. */
  unset(s: Smmuv3Stream): VerbOutcome {
    if (s.state === 'unset') return 0;
    const r = this.#streams.detach(s);
    if (r < 0) {
      // What was attached must not go on translating: the stream aborts until its next configuration.
      const aborted = this.#attach(s, this.#domains.abort(s.vfio.devId, this.#domains.home!), 'abort', null, null);
      return aborted < 0 ? aborted : r;
    }
    this.#settle(s, 'unset', null, null);
    return 0;
  }

  /**
   * Without translation the stream bypasses or aborts. A refusal leaves nothing attached, so that the next access asks.
   * @returns 0 or -errno.
   */
  policy(s: Smmuv3Stream, abort: boolean): VerbOutcome {
    const home = this.#domains.home!;
    const id = abort ? this.#domains.abort(s.vfio.devId, home) : this.#domains.bypass(s.vfio.devId, home);
    const r = this.#attach(s, id, 'policy', null, null);
    if (r >= 0) return 0;
    const unset = this.unset(s);
    return unset < 0 ? unset : r;
  }

  /**
   * Puts the host into the state that a valid entry asks for.
   * @returns 0, UNCHANGED, APART, or -errno.
   */
  apply(s: Smmuv3Stream, ste: Int32Array): VerbOutcome {
    this.#before.set(s.ste);
    s.ste.set(ste);
    const r = this.#apply(s, ste);
    s.settled = r === 0 || r === UNCHANGED;
    if (r >= 0) return r;
    if (!s.shared) {
      // What was there before is what is in force.
      s.ste.set(this.#before);
      return r;
    }
    // The device must not keep what this stream no longer asks for: the stream aborts.
    s.ste.fill(0);
    s.ste[0] = V | (CONFIG.ABORT << 1);
    const aborted = this.#attach(s, this.#domains.abort(s.vfio.devId, this.#domains.home!), 'abort', null, null);
    return aborted < 0 ? aborted : r;
  }

  /**
   * A stream that aborted when it was saved aborts, whatever its entry says: the host had refused what it asked for.
   * @returns 0 or -errno.
   */
  abort(s: Smmuv3Stream, ste: Int32Array): VerbOutcome {
    s.ste.set(ste);
    return this.#attach(s, this.#domains.abort(s.vfio.devId, this.#domains.home!), 'abort', null, null);
  }

  #apply(s: Smmuv3Stream, ste: Int32Array): VerbOutcome {
    const devId = s.vfio.devId;
    const home = this.#domains.home!;
    switch (steConfig(ste, 0)) {
      case CONFIG.BYPASS:
        return this.#attach(s, this.#domains.bypass(devId, home), 'bypass', null, null);
      case CONFIG.S1:
        return this.#stage1(s, 's1', this.#domains.ram(devId, this.#core.features.s2p ? steS2Vmid(ste, 0) : 0));
      case CONFIG.S2: {
        const shadow = this.#domains.shadowed(devId, steS2Vmid(ste, 0), ste);
        if (typeof shadow === 'number') return shadow;
        if (s.domain === shadow && s.hwptId === shadow.hwptId) return 0;
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

  #stage1(s: Smmuv3Stream, state: StreamState, domain: Smmuv3Domain | number): VerbOutcome {
    if (typeof domain === 'number') return domain;
    this.#identity(s.ste);
    const c = s.context;
    const same = c !== null && s.state === state && c.domain === domain && c.vste.every((w, i) => w === this.#vste[i]);
    if (same && s.hwptId === c.hwptId) return UNCHANGED;
    domain.users++;
    const before = s.state;
    const r = this.#attachContext(s, state, domain);
    if (r < 0 && s.state === 'abort' && before !== 'abort') {
      // The move failed half-way: the stream must not stay on an HWPT of a domain that may go.
      const aborted = this.#attach(s, this.#domains.abort(s.vfio.devId, this.#domains.home!), 'abort', null, null);
      this.#core.refusals.note('undoing', aborted);
    }
    domain.users--;
    this.#domains.release(domain);
    return r;
  }

  #attachContext(s: Smmuv3Stream, state: StreamState, domain: Smmuv3Domain): VerbOutcome {
    const tied = this.tie(s, domain);
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

  /**
   * Ties the guest's StreamID to the device in the domain's vIOMMU, moving it there if it is tied elsewhere.
   * @returns 0 or -errno.
   */
  tie(s: Smmuv3Stream, domain: Smmuv3Domain = this.#domains.home!): VerbOutcome {
    if (s.vdeviceId > 0 && s.vdeviceIn === domain) return 0;
    const devId = s.vfio.devId;
    const viommu = this.#domains.viommu(devId, domain);
    if (viommu < 0) return viommu;
    if (s.vdeviceId > 0) {
      if (this.#streams.holdsElsewhere(s, domain)) return -E.INVAL;
      // Nothing may translate while the name changes hands: the new vIOMMU's abort HWPT bridges the move.
      const r = this.#attach(s, this.#domains.abort(devId, domain), 'abort', null, null);
      if (r < 0) return r;
      this.#dropVdevice(s);
    }
    const id = this.#streams.vdevice(s, viommu);
    if (id < 0) return id;
    s.vdeviceId = id;
    s.vdeviceIn = domain;
    domain.users++;
    return 0;
  }

  /** Ties a StreamID that has nothing where another one of its group is tied. @returns 0 or -errno. */
  #nameLike(s: Smmuv3Stream, like: Smmuv3Stream): VerbOutcome {
    const domain = like.vdeviceIn;
    if (domain === null || s.vdeviceIn === domain) return 0;
    this.#dropVdevice(s);
    return this.tie(s, domain);
  }

  /** No command has tied the StreamID to the device. Nothing is attached to it. */
  untie(s: Smmuv3Stream): void {
    this.#dropVdevice(s);
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

  /** The device leaves, and the stream with it. @returns 0 or -errno. */
  remove(s: Smmuv3Stream): VerbOutcome {
    const r = this.#streams.detach(s);
    this.#settle(s, 'unset', null, null);
    this.#dropVdevice(s);
    return r;
  }
}
