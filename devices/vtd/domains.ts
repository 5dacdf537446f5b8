import type { VtdRegime } from '../../src/lib/walk/vtd-regime.ts';
import type { VtdSecondStage } from '../../src/lib/walk/vtd-second.ts';
import type { HwptAlloc } from '../../src/ports/iommufd.ts';
import { HWPT_DATA, HWPT_FLAG, VTD_S1_FLAG } from '../../src/spec/iommufd/uapi.ts';
import { PGTT } from '../../src/spec/vtd/tables.ts';
import { FirstStage, VTD_S1_BYTES } from './first-stage.ts';
import { userData, type VtdHost } from './host.ts';
import { ListedMap } from './listed-map.ts';
import type { VtdShape } from './properties.ts';
import { type LeafSource, Shadow } from './shadow.ts';

/** What a (device, PASID) is attached to. */
export type Domain =
  | { readonly kind: 'parent'; readonly hwptId: number; readonly key: string }
  | { readonly kind: 'first'; readonly hwptId: number; readonly key: string; readonly first: FirstStage }
  | { readonly kind: 'second'; readonly hwptId: number; readonly key: string; readonly shadow: Shadow };

/** Host objects by what they stand for, made on first use and destroyed with their last user. */
export class Domains {
  readonly shadows = new ListedMap<string, Shadow>();
  readonly firsts = new ListedMap<string, FirstStage>();
  readonly #host: VtdHost;
  readonly #shape: VtdShape;
  readonly #walk: VtdSecondStage;
  readonly #source: LeafSource;
  #parent: Domain | null = null;

  constructor(host: VtdHost, shape: VtdShape, walk: VtdSecondStage, source: LeafSource) {
    this.#host = host;
    this.#shape = shape;
    this.#walk = walk;
    this.#source = source;
  }

  #alloc(devId: number, ptId: number, flags: number, data: Uint8Array | null, faultId = 0): number {
    const c: HwptAlloc = {
      flags:
        flags | (this.#shape.props.pasidBits > 0 ? HWPT_FLAG.PASID : 0) | (faultId > 0 ? HWPT_FLAG.FAULT_ID_VALID : 0),
      devId,
      ptId,
      outHwptId: 0,
      reserved: 0,
      dataType: data === null ? HWPT_DATA.NONE : HWPT_DATA.VTD_S1,
      data: data === null ? null : userData(data),
      faultId,
    };
    const error = this.#host.iommufd.hwptAlloc(c);
    return error === 0 ? c.outHwptId : error;
  }

  /** Guest RAM as a domain: a nest parent when the guest can have first stages. Null: the host refuses. */
  parent(devId: number): Domain | null {
    if (this.#parent !== null) return this.#parent;
    const flags = this.#shape.firstStage ? HWPT_FLAG.NEST_PARENT : 0;
    const hwptId = this.#alloc(devId, this.#host.ioasId, flags, null);
    if (hwptId < 0) return null;
    this.#parent = { kind: 'parent', hwptId, key: 'parent' };
    return this.#parent;
  }

  /**
   * The domain a regime asks for, with one more user; null: the host refuses it.
   * @param faultId iommufd's fault queue for page requests of a first stage; 0: none.
   */
  acquire(devId: number, r: VtdRegime, faultId = 0): Domain | null {
    switch (r.pgtt) {
      case PGTT.PASS_THROUGH:
        return this.parent(devId);
      case PGTT.FIRST:
        return this.#first(devId, r, null, faultId);
      case PGTT.NESTED: {
        const shadow = this.#shadow(devId, r, true);
        if (shadow === null) return null;
        const domain = this.#first(devId, r, shadow, faultId);
        if (domain === null && shadow.users === 0) this.#drop(shadow);
        return domain;
      }
      default: {
        const shadow = this.#shadow(devId, r, false);
        if (shadow === null) return null;
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
        return this.#firstKey(r, '', faultId);
      case PGTT.NESTED:
        return this.#firstKey(r, this.#shadowKey(r, true), faultId);
      default:
        return this.#shadowKey(r, false);
    }
  }

  #firstKey(r: VtdRegime, parent: string, faultId: number): string {
    return `first ${r.did} ${r.firstRoot} ${r.firstLevels} ${this.#flags(r)} ${faultId} ${parent}`;
  }

  #shadowKey(r: VtdRegime, nest: boolean): string {
    return `${nest ? 'nest' : 'second'} ${r.did} ${r.secondRoot} ${r.secondLevels}`;
  }

  #flags(r: VtdRegime): number {
    return (r.sre ? VTD_S1_FLAG.SRE : 0) | (r.eafe ? VTD_S1_FLAG.EAFE : 0) | (r.sre && r.wpe ? VTD_S1_FLAG.WPE : 0);
  }

  #first(devId: number, r: VtdRegime, shadow: Shadow | null, faultId: number): Domain | null {
    const key = this.#firstKey(r, shadow?.key ?? '', faultId);
    let first = this.firsts.get(key);
    if (first === undefined) {
      const parentId = shadow?.hwptId ?? this.parent(devId)?.hwptId;
      if (parentId === undefined) return null;
      const data = new DataView(new ArrayBuffer(VTD_S1_BYTES));
      data.setUint32(0, this.#flags(r), true);
      data.setBigUint64(8, BigInt(r.firstRoot), true);
      data.setUint32(16, r.firstLevels === 5 ? 57 : 48, true);
      const hwptId = this.#alloc(devId, parentId, 0, new Uint8Array(data.buffer), faultId);
      if (hwptId < 0) return null;
      if (shadow !== null) shadow.users++;
      first = new FirstStage(this.#host.iommufd, hwptId, key, r.did, shadow);
      this.firsts.set(key, first);
    }
    first.users++;
    return { kind: 'first', hwptId: first.hwptId, key, first };
  }

  #shadow(devId: number, r: VtdRegime, nest: boolean): Shadow | null {
    const key = this.#shadowKey(r, nest);
    const known = this.shadows.get(key);
    if (known !== undefined) return known;
    const { iommufd, upcalls } = this.#host;
    const ioas = { flags: 0, outIoasId: 0 };
    if (iommufd.ioasAlloc(ioas) !== 0) return null;
    // Dirty tracking is asked for because it makes the host choose the second-stage format.
    const wanted = nest ? HWPT_FLAG.NEST_PARENT : HWPT_FLAG.DIRTY_TRACKING;
    let hwptId = this.#alloc(devId, ioas.outIoasId, wanted, null);
    if (hwptId < 0 && !nest) hwptId = this.#alloc(devId, ioas.outIoasId, 0, null);
    if (hwptId < 0) {
      iommufd.destroy(ioas.outIoasId);
      return null;
    }
    upcalls?.shadow(hwptId, true);
    const table = { did: r.did, root: r.secondRoot, levels: r.secondLevels };
    const shadow = new Shadow(this.#host, this.#walk, this.#source, { ioasId: ioas.outIoasId, hwptId, key }, table);
    this.shadows.set(key, shadow);
    if (this.#shape.props.cachingMode || upcalls === null) shadow.fillAll();
    return shadow;
  }

  /** A user of the domain is gone (already detached). */
  release(d: Domain): void {
    if (d.kind === 'first') {
      if (--d.first.users > 0) return;
      this.firsts.delete(d.key);
      this.#host.iommufd.destroy(d.hwptId);
      const parent = d.first.parent;
      if (parent !== null && --parent.users === 0) this.#drop(parent);
    } else if (d.kind === 'second' && --d.shadow.users === 0) {
      this.#drop(d.shadow);
    }
  }

  #drop(s: Shadow): void {
    this.shadows.delete(s.key);
    this.#host.upcalls?.shadow(s.hwptId, false);
    this.#host.iommufd.destroy(s.hwptId);
    this.#host.iommufd.destroy(s.ioasId);
  }

  /** The parent goes with the last device. */
  close(): void {
    if (this.#parent !== null) this.#host.iommufd.destroy(this.#parent.hwptId);
    this.#parent = null;
  }
}
