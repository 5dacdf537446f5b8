import { ListedMap } from '../../src/lib/collections/listed-map.ts';
import { ShadowPieces } from '../../src/lib/shadow/shadow-pieces.ts';
import { SHADOW_PIECES } from '../../src/lib/shadow/shadow-work.ts';
import type { HostVerbs, VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import type { VtdRegime } from '../../src/lib/walk/vtd-regime.ts';
import { VtdSecondStage } from '../../src/lib/walk/vtd-second.ts';
import { E } from '../../src/spec/iommufd/errno.ts';
import { HWPT_FLAG, VTD_S1_FLAG } from '../../src/spec/iommufd/uapi.ts';
import { PGTT } from '../../src/spec/vtd/tables.ts';
import type { VtdCore } from './core.ts';
import type { VtdDeps } from './deps.ts';
import { FirstStage } from './first-stage.ts';
import { SecondStageLeaves } from './leaf-walk.ts';
import { VtdShadow, type VtdShadowDeps } from './shadow.ts';
import { guestLimits } from './tables.ts';

/**
 * Table entries one eager fill may read, and IOAS_MAPs it may make. Where the host asks for what is missing, a fill is only a
 * start; without upcalls nothing is ever asked for.
 */
const FILL = { entries: 8192, maps: 128 } as const;
const FILL_WITHOUT_MISSES = { entries: 1 << 20, maps: 65535 } as const;

/** What a (device, PASID) is attached to. */
export type VtdDomain =
  | { readonly kind: 'parent'; readonly hwptId: number; readonly key: string }
  | { readonly kind: 'first'; readonly hwptId: number; readonly key: string; readonly first: FirstStage }
  | { readonly kind: 'second'; readonly hwptId: number; readonly key: string; readonly shadow: VtdShadow };

/** Whether the host keeps what was to go of it. */
export function isStale(d: VtdDomain): boolean {
  if (d.kind === 'second') return d.shadow.stale;
  return d.kind === 'first' && (d.first.stale || (d.first.parent?.stale ?? false));
}

/** Host objects by what they stand for, made on first use and destroyed with their last user. */
export class VtdDomains {
  /** Copies of the guest's second stages, by what they stand for. */
  readonly shadows = new ListedMap<string, VtdShadow>();
  /** The guest's first-stage tables, by what they stand for. */
  readonly firsts = new ListedMap<string, FirstStage>();
  /**
   * Second stages are filled when the guest invalidates: no one asks for what is missing, or the guest promises to announce
   * what is new (caching mode).
   */
  readonly eager: boolean;
  readonly #core: VtdCore;
  readonly #host: HostVerbs;
  readonly #shadow: VtdShadowDeps;
  /** HWPT_FLAG of every HWPT here. */
  readonly #flags: number;
  #parent: VtdDomain | null = null;
  /** An IOAS without memory, and its HWPT. */
  #nothing: { readonly ioasId: number; readonly hwptId: number } | null = null;
  /** Shadows that nothing uses any more and that have more pieces than one access may take away. */
  #dying: VtdShadow[] = [];

  constructor(core: VtdCore) {
    const { deps, features, host } = core;
    const { memory } = deps;
    const limits = guestLimits(core);
    this.eager = features.cachingMode || deps.upcalls === null;
    const most = deps.upcalls === null ? FILL_WITHOUT_MISSES : FILL;
    this.#core = core;
    this.#host = host;
    this.#flags = features.pasidBits > 0 ? HWPT_FLAG.PASID : 0;
    this.#shadow = {
      host,
      memory: guestRam(deps),
      walk: new VtdSecondStage(memory, limits),
      leaves: new SecondStageLeaves(memory, limits),
      fill: { entries: most.entries, maps: deps.fillMaps ?? most.maps },
      fillsWhole: deps.upcalls === null,
      pieces: new ShadowPieces(core.quotas.shadowPieces),
    };
  }

  /** Guest RAM as a domain: a nest parent when the guest can have first stages. @returns it, or -errno. */
  parent(devId: number): VtdDomain | VerbOutcome {
    if (this.#parent !== null) return this.#parent;
    const nest = this.#core.features.firstStage ? HWPT_FLAG.NEST_PARENT : 0;
    const hwptId = this.#host.pagingHwpt(devId, this.#core.deps.ioasId, nest | this.#flags);
    if (hwptId < 0) return hwptId;
    this.#parent = { kind: 'parent', hwptId, key: 'parent' };
    return this.#parent;
  }

  /** A HWPT that translates nothing. @returns its id or -errno. */
  nothing(devId: number): VerbOutcome {
    if (this.#nothing !== null) return this.#nothing.hwptId;
    const ioasId = this.#host.ioasAlloc();
    if (ioasId < 0) return ioasId;
    const hwptId = this.#host.pagingHwpt(devId, ioasId, this.#flags);
    if (hwptId < 0) this.#host.release(ioasId);
    else this.#nothing = { ioasId, hwptId };
    return hwptId;
  }

  /**
   * The domain a regime asks for, with one more user.
   * @param faultId iommufd's fault queue for page requests of a first stage; 0: none.
   * @returns it, or -errno.
   */
  acquire(devId: number, r: VtdRegime, faultId = 0): VtdDomain | VerbOutcome {
    switch (r.pgtt) {
      case PGTT.PASS_THROUGH:
        return this.parent(devId);
      case PGTT.FIRST:
        return this.#first(devId, r, null, faultId);
      case PGTT.NESTED: {
        const shadow = this.#shadowOf(devId, r, true);
        if (typeof shadow === 'number') return shadow;
        const domain = this.#first(devId, r, shadow, faultId);
        if (typeof domain === 'number' && shadow.users === 0) this.#drop(shadow);
        return domain;
      }
      default: {
        const shadow = this.#shadowOf(devId, r, false);
        if (typeof shadow === 'number') return shadow;
        shadow.users++;
        return { kind: 'second', hwptId: shadow.hwptId, key: shadow.key, shadow };
      }
    }
  }

  /** What `acquire` would name a regime's domain. */
  keyOf(r: VtdRegime, faultId = 0): string {
    switch (r.pgtt) {
      case PGTT.PASS_THROUGH:
        return 'parent';
      case PGTT.FIRST:
        return firstKey(r, '', faultId);
      case PGTT.NESTED:
        return firstKey(r, shadowKey(r, true), faultId);
      default:
        return shadowKey(r, false);
    }
  }

  #first(devId: number, r: VtdRegime, shadow: VtdShadow | null, faultId: number): VtdDomain | VerbOutcome {
    const key = firstKey(r, shadow?.key ?? '', faultId);
    let first = this.firsts.get(key);
    if (first?.stale) {
      const r = first.invalidateAll();
      if (r < 0) return r;
    }
    if (first === undefined) {
      const parent = shadow ?? this.parent(devId);
      if (typeof parent === 'number') return parent;
      const s1 = { flags: firstFlags(r), root: r.firstRoot, width: this.#firstBits(r) };
      const hwptId = this.#host.nestedVtd(devId, parent.hwptId, this.#flags, s1, faultId);
      if (hwptId < 0) return hwptId;
      if (shadow !== null) shadow.users++;
      first = new FirstStage(this.#host, hwptId, key, r.did, shadow);
      this.firsts.set(key, first);
    }
    first.users++;
    return { kind: 'first', hwptId: first.hwptId, key, first };
  }

  /** A host that is Linux has no first stage narrower than its tables: there the guest's narrow one is as wide as they are. */
  #firstBits(r: VtdRegime): number {
    return this.#core.deps.upcalls === null ? Math.max(48, r.firstBits) : r.firstBits;
  }

  #shadowOf(devId: number, r: VtdRegime, nest: boolean): VtdShadow | VerbOutcome {
    const key = shadowKey(r, nest);
    const known = this.shadows.get(key);
    if (known !== undefined) {
      const r = known.stale ? known.clear() : 0;
      return r < 0 ? r : known;
    }
    const { upcalls } = this.#core.deps;
    const ioasId = this.#host.ioasAlloc();
    if (ioasId < 0) return ioasId;
    // Dirty tracking is asked for because it makes the host choose the second-stage format.
    const wanted = nest ? HWPT_FLAG.NEST_PARENT : HWPT_FLAG.DIRTY_TRACKING;
    let hwptId = this.#host.pagingHwpt(devId, ioasId, wanted | this.#flags);
    // A host without dirty tracking says EOPNOTSUPP; another refusal (no memory) is one, not a reason for the other format.
    if (hwptId === -E.OPNOTSUPP && !nest) hwptId = this.#host.pagingHwpt(devId, ioasId, this.#flags);
    if (hwptId < 0) {
      this.#host.release(ioasId);
      return hwptId;
    }
    const asks = upcalls?.shadow(hwptId, true) ?? 0;
    if (asks < 0) {
      // Nobody would ask for what is missing.
      this.#host.release(hwptId);
      this.#host.release(ioasId);
      return asks;
    }
    const own = upcalls?.shadowTable?.(hwptId, this.#core.deps.ioasId) ?? -E.OPNOTSUPP;
    if (typeof own === 'number' && own !== -E.OPNOTSUPP) {
      this.#core.refusals.note('undoing', upcalls?.shadow(hwptId, false) ?? 0);
      this.#host.release(hwptId);
      this.#host.release(ioasId);
      return own;
    }
    const table = { did: r.did, root: r.secondRoot, levels: r.secondLevels };
    const shadow = new VtdShadow(this.#shadow, { ioasId, hwptId, key }, table, typeof own === 'number' ? null : own);
    this.shadows.set(key, shadow);
    // What goes still counts against the quota: where a fill has to be whole, it comes behind that.
    if (this.#dying.length > 0 && upcalls === null) this.#core.work.left = 0;
    const filled = this.eager ? shadow.fillAll(this.#core.work) : 0;
    if (filled >= 0) return shadow;
    if (upcalls === null) {
      // What is not mapped now never will be: there are no misses.
      this.#drop(shadow);
      return filled;
    }
    this.#core.refusals.note('first use', filled);
    return shadow;
  }

  /** A user of the domain is gone (already detached). */
  release(d: VtdDomain): void {
    if (d.kind === 'first') {
      if (--d.first.users > 0) return;
      this.firsts.delete(d.key);
      this.#host.release(d.hwptId);
      const { parent } = d.first;
      if (parent !== null && --parent.users === 0) this.#drop(parent);
    } else if (d.kind === 'second' && --d.shadow.users === 0) {
      this.#drop(d.shadow);
    }
  }

  #drop(s: VtdShadow): void {
    this.shadows.delete(s.key);
    if (s.pieces > SHADOW_PIECES) {
      this.#dying.push(s);
      this.#core.work.pause();
    } else this.#destroy(s);
  }

  /**
   * Goes on with what one access could not do: shadows that go, then fills that nobody asks for again.
   * `work.unfinished`: there is more. @returns 0 or the first -errno.
   */
  goOn(): VerbOutcome {
    const { work } = this.#core;
    let refused = 0;
    for (let s = this.#dying[0]; s !== undefined; s = this.#dying[0]) {
      if (work.over) {
        work.unfinished = true;
        return refused;
      }
      const gone = s.empty(work);
      if (work.unfinished) return gone;
      // What the host does not take away piece by piece goes with the whole.
      this.#dying.shift();
      this.#destroy(s);
    }
    const { list } = this.shadows;
    for (let i = 0; i < list.length; i++) {
      const s = list[i]!;
      while (s.filling) {
        if (work.over) {
          work.unfinished = true;
          return refused;
        }
        refused = s.fillOn(work) || refused;
      }
    }
    return refused;
  }

  #destroy(s: VtdShadow): void {
    s.gone();
    this.#core.refusals.note('undoing', this.#core.deps.upcalls?.shadow(s.hwptId, false) ?? 0);
    this.#host.release(s.hwptId);
    this.#host.release(s.ioasId);
  }

  /** Every shadow that may have guest memory mapped. */
  get holding(): readonly VtdShadow[] {
    return [...this.shadows.list, ...this.#dying];
  }

  /** What every device may have been attached to goes with the last one. */
  close(): void {
    this.#core.work.whole(() => this.goOn());
    if (this.#parent !== null) this.#host.release(this.#parent.hwptId);
    if (this.#nothing !== null) {
      this.#host.release(this.#nothing.hwptId);
      this.#host.release(this.#nothing.ioasId);
    }
    this.#parent = this.#nothing = null;
  }
}

function firstKey(r: VtdRegime, parent: string, faultId: number): string {
  return `first ${r.did} ${r.firstRoot} ${r.firstBits} ${firstFlags(r)} ${faultId} ${parent}`;
}

function shadowKey(r: VtdRegime, nest: boolean): string {
  return `${nest ? 'nest' : 'second'} ${r.did} ${r.secondRoot} ${r.secondLevels}`;
}

function firstFlags(r: VtdRegime): number {
  return (r.sre ? VTD_S1_FLAG.SRE : 0) | (r.eafe ? VTD_S1_FLAG.EAFE : 0) | (r.sre && r.wpe ? VTD_S1_FLAG.WPE : 0);
}

/** Guest RAM as the process that has the host's file open sees it. */
function guestRam(deps: VtdDeps): VtdShadowDeps['memory'] {
  return {
    userVa: (gpa) => deps.userVa(gpa),
    roomAt: (gpa) => deps.roomAt(gpa),
    gapAt: (gpa) => (deps.ram().find((r) => r.gpa > gpa)?.gpa ?? 2 ** 52) - gpa,
  };
}
