import { loWord } from '../../src/core/bits.ts';
import type { Iommufd } from '../../src/ports/iommufd.ts';
import { INVALIDATE_DATA, VTD_INV_FLAG } from '../../src/spec/iommufd/uapi.ts';
import type { Shadow } from './shadow.ts';

/** Bytes of struct iommu_hwpt_vtd_s1 and iommu_hwpt_vtd_s1_invalidate. */
export const VTD_S1_BYTES = 24;
const ENTRY_BYTES = 24;

/** The nested HWPT of one guest first-stage table, shared by every (device, PASID) of its guest domain. */
export class FirstStage {
  readonly did: number;
  readonly hwptId: number;
  readonly key: string;
  /** The guest's second stage below it; null: guest RAM itself. */
  readonly parent: Shadow | null;
  users = 0;
  /** Stamp of the last invalidation round that reached it. */
  round = 0;
  readonly #iommufd: Iommufd;
  readonly #entry = new Int32Array(ENTRY_BYTES / 4);

  constructor(iommufd: Iommufd, hwptId: number, key: string, did: number, parent: Shadow | null) {
    this.#iommufd = iommufd;
    this.hwptId = hwptId;
    this.key = key;
    this.did = did;
    this.parent = parent;
  }

  /** Everything of this table. */
  invalidateAll(): void {
    const e = this.#entry;
    e.fill(0);
    e[2] = -1;
    e[3] = -1;
    this.#send();
  }

  /** 2^am pages around `page`; `leaf`: intermediate entries may stay cached. */
  invalidate(page: number, am: number, leaf: boolean): void {
    if (am >= 40) {
      this.invalidateAll();
      return;
    }
    const pages = 2 ** am;
    const first = page - (page % pages);
    const e = this.#entry;
    e[0] = loWord((first % 0x10_0000) * 4096);
    e[1] = loWord(first / 0x10_0000);
    e[2] = loWord(pages % 0x1_0000_0000);
    e[3] = Math.floor(pages / 0x1_0000_0000);
    e[4] = leaf ? VTD_INV_FLAG.LEAF : 0;
    e[5] = 0;
    this.#send();
  }

  /** A refusal has no way back to a VT-d guest; the kernel's own retries are over then. */
  #send(): void {
    this.#iommufd.invalidate(this.hwptId, INVALIDATE_DATA.VTD_S1, this.#entry, 0, ENTRY_BYTES, 1);
  }
}
