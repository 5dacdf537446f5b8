import { loWord } from '../../src/core/bits.ts';
import type { HostVerbs, VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { isRefusal } from '../../src/lib/uapi/refusals.ts';
import { VTD_INV_FLAG } from '../../src/spec/iommufd/uapi.ts';
import type { VtdShadow } from './shadow.ts';

/** Words of struct iommu_hwpt_vtd_s1_invalidate: address, pages, flags, reserved. */
const ENTRY_WORDS = 6;
/** log2 pages from which on a range is everything: its first page would not fit the field. */
const EVERYTHING_AM = 40;

/** The nested HWPT of one guest first-stage table, shared by every (device, PASID) of its guest domain. */
export class FirstStage {
  /** The guest's domain id. */
  readonly did: number;
  readonly hwptId: number;
  /** What it stands for: two regimes with equal keys share it. */
  readonly key: string;
  /** The guest's second stage below it; null: guest RAM itself. */
  readonly parent: VtdShadow | null;
  /** Slots attached to it. */
  users = 0;
  /** Stamp of the last invalidation round that reached it. */
  round = 0;
  /** The host refused an invalidation: nothing may use this table until one of everything has succeeded. */
  stale = false;
  readonly #host: HostVerbs;
  readonly #entry = new Int32Array(ENTRY_WORDS);

  constructor(host: HostVerbs, hwptId: number, key: string, did: number, parent: VtdShadow | null) {
    this.#host = host;
    this.hwptId = hwptId;
    this.key = key;
    this.did = did;
    this.parent = parent;
  }

  /** Everything of this table. */
  invalidateAll(): VerbOutcome {
    const e = this.#entry;
    e.fill(0);
    e[2] = -1;
    e[3] = -1;
    const r = this.#run();
    if (r === 0) this.stale = false;
    return r;
  }

  /** 2^am pages around `page`; `leaf`: intermediate entries may stay cached. */
  invalidate(page: number, am: number, leaf: boolean): VerbOutcome {
    if (am >= EVERYTHING_AM) return this.invalidateAll();
    const pages = 2 ** am;
    const first = page - (page % pages);
    const e = this.#entry;
    e[0] = loWord((first % 0x10_0000) * 4096);
    e[1] = loWord(first / 0x10_0000);
    e[2] = loWord(pages % 0x1_0000_0000);
    e[3] = Math.floor(pages / 0x1_0000_0000);
    e[4] = leaf ? VTD_INV_FLAG.LEAF : 0;
    e[5] = 0;
    return this.#run();
  }

  #run(): VerbOutcome {
    const r = this.#host.invalidateVtd(this.hwptId, this.#entry);
    if (!isRefusal(r)) return 0;
    this.stale = true;
    return r;
  }
}
