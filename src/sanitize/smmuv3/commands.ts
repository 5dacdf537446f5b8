import { fromWords, POW2 } from '../../core/bits.ts';
import {
  ATC_SIZE_ALL,
  cmdAsid,
  cmdAtcSize,
  cmdNum,
  cmdRange,
  cmdScale,
  cmdSsid,
  cmdTg,
  cmdTtl,
  cmdVmid,
  OP,
  type Opcode,
  RANGE_ALL,
  SSV,
} from '../../spec/smmuv3/commands.ts';
import { levelShift } from '../../spec/smmuv3/descriptors.ts';
import type { Caches } from '../caches.ts';
import type { ConfigCaches } from '../config.ts';
import type { DeviceTlbs } from '../device-tlbs.ts';
import type { PageRequestRules } from '../requests.ts';
import { wholeInvalidation } from '../stale.ts';

/** Kinds of stages in tags: EL1 stage 1 (VMID, ASID), stage 2 (VMID), EL2 stage 1 (0, ASID), both stages of a nested stream together (VMID, ASID). */
export const SMMU_STAGE = { S1: 0, S2: 1, EL2: 2, BOTH: 3 } as const;
/** Kinds of configuration of the first levels of tables: an invalidation of leaves does not reach them. `did` is the last stream. */
export const L1_STE = 'level-1 STE';
export const L1_CD = 'level-1 CD';
/** STRTAB_BASE: an invalidation of everything reaches it. */
export const TABLE_POINTER = 'stream table pointer';
const S1 = 1 << SMMU_STAGE.S1;
const S2 = 1 << SMMU_STAGE.S2;
const EL2 = 1 << SMMU_STAGE.EL2;
/** What is held of both stages together goes like what is of stage 1, by no intermediate address (IHI 0070 §4.4.3.1). */
const BOTH = 1 << SMMU_STAGE.BOTH;

/** What a command invalidates, said to the caches (IHI 0070 §4.3, §4.4). */
export class Smmuv3Invalidations {
  readonly #caches: Caches;
  readonly #config: ConfigCaches;
  readonly #devices: DeviceTlbs;
  readonly #requests: PageRequestRules;
  /** VMIDs count: stage 2 is implemented (IDR0.S2P). */
  vmids = true;
  /** CFGI_ALL was issued since this was cleared. */
  allConfiguration = false;

  constructor(caches: Caches, config: ConfigCaches, devices: DeviceTlbs, requests: PageRequestRules) {
    this.#requests = requests;
    this.#caches = caches;
    this.#devices = devices;
    this.#config = config;
  }

  /** @returns whether the command is one that invalidates. */
  run(seq: number, w0: number, w1: number, w2: number, w3: number): boolean {
    const vmid = this.vmids ? cmdVmid(w1) : 0;
    const asid = cmdAsid(w1);
    const sid = w1 >>> 0;
    const leaf = (w2 & 1) !== 0;
    const op = (w0 & 0xff) as Opcode;
    switch (op) {
      case OP.CFGI_STE:
        this.#config.invalidate(seq, (c) =>
          c.kind === L1_STE ? !leaf && sid >= c.stream && sid <= c.did : c.stream === sid,
        );
        return true;
      case OP.CFGI_STE_RANGE: {
        const range = cmdRange(w2);
        const size = 2 ** (range + 1);
        const first = range === RANGE_ALL ? 0 : sid - (sid % size);
        const last = range === RANGE_ALL ? Number.POSITIVE_INFINITY : first + size - 1;
        const all = range === RANGE_ALL;
        if (all) this.allConfiguration = true;
        this.#config.invalidate(
          seq,
          (c) => all || ((c.kind === L1_STE ? c.did : c.stream) >= first && c.stream <= last),
        );
        return true;
      }
      case OP.CFGI_CD: {
        const ssid = cmdSsid(w0);
        this.#config.invalidate(
          seq,
          (c) => c.stream === sid && (c.kind === L1_CD ? !leaf : c.kind === 'CD' && c.pasid === ssid),
        );
        return true;
      }
      case OP.CFGI_CD_ALL:
        this.#config.invalidate(seq, (c) => c.kind.endsWith('CD') && c.stream === sid);
        return true;
      case OP.TLBI_NH_ALL:
        this.#whole(seq, S1 | BOTH, vmid, -1, false);
        return true;
      case OP.TLBI_NH_ASID:
        this.#whole(seq, S1 | BOTH, vmid, asid, true);
        return true;
      case OP.TLBI_NH_VA:
        this.#range(seq, S1 | BOTH, vmid, asid, w0, w2, w3);
        return true;
      case OP.TLBI_NH_VAA:
        this.#range(seq, S1 | BOTH, vmid, -1, w0, w2, w3);
        return true;
      case OP.TLBI_EL2_ALL:
        this.#whole(seq, EL2, -1, -1, false);
        return true;
      case OP.TLBI_EL2_ASID:
        this.#whole(seq, EL2, -1, asid, true);
        return true;
      case OP.TLBI_EL2_VA:
        this.#range(seq, EL2, 0, asid, w0, w2, w3);
        return true;
      case OP.TLBI_EL2_VAA:
        this.#range(seq, EL2, 0, -1, w0, w2, w3);
        return true;
      case OP.TLBI_S12_VMALL:
        this.#whole(seq, S1 | S2 | BOTH, vmid, -1, false);
        return true;
      case OP.TLBI_S2_IPA:
        this.#range(seq, S2, vmid, -1, w0, w2, w3 & 0xf_ffff);
        return true;
      case OP.TLBI_NSNH_ALL:
        this.#whole(seq, S1 | S2 | BOTH, -1, -1, false);
        return true;
      case OP.ATC_INV:
        this.#device(seq, w0, sid, w2, w3);
        return true;
      case OP.PRI_RESP:
        this.#requests.answered(sid, (w0 & SSV) !== 0 ? cmdSsid(w0) : -1, w2 & 0x1ff);
        return false;
      case OP.RESUME:
        this.#requests.resumed(sid, w2 & 0xffff);
        return false;
      case OP.STALL_TERM:
        this.#requests.terminated(sid);
        return false;
      // Hints and syncs invalidate nothing; neither EL3 nor MPAM is followed.
      case OP.PREFETCH_CONFIG:
      case OP.PREFETCH_ADDR:
      case OP.CFGI_VMS_PIDM:
      case OP.TLBI_EL3_ALL:
      case OP.TLBI_EL3_VA:
      case OP.SYNC:
        return false;
      default:
        return reserved(op);
    }
  }

  /** IHI 0070 §4.5.1: 2^Size pages around the address; 52 is everything. */
  #device(seq: number, w0: number, sid: number, w2: number, w3: number): void {
    const ssid = (w0 & SSV) !== 0 ? cmdSsid(w0) : -1;
    const size = cmdAtcSize(w2);
    const pages = POW2[Math.min(size, ATC_SIZE_ALL)]!;
    const page = fromWords(w2 & ~0xfff, w3) / 4096;
    const from = page - (page % pages);
    const to = size >= ATC_SIZE_ALL ? Number.POSITIVE_INFINITY : from + pages - 1;
    this.#devices.invalidate(seq, sid, ssid, from, to, (w0 & (1 << 9)) !== 0);
  }

  #whole(seq: number, stages: number, a: number, b: number, keepsGlobal: boolean): void {
    const i = wholeInvalidation(seq, stages, a, b);
    i.keepsGlobal = keepsGlobal;
    this.#caches.invalidate(i);
  }

  /** IHI 0070 §4.4.1.1: with TG the command names a range and may hint at the level of the leaf. */
  #range(seq: number, stages: number, a: number, b: number, w0: number, w2: number, w3: number): void {
    const i = wholeInvalidation(seq, stages, a, b);
    const tg = cmdTg(w2);
    const page = fromWords(w2 & ~0xfff, w3) / 4096;
    i.leafOnly = (w2 & 1) !== 0;
    if (tg === 0) {
      i.from = page;
      i.to = page;
    } else {
      const granule = 10 + 2 * tg;
      const unit = 2 ** (granule - 12);
      i.granule = granule;
      i.from = page - (page % unit);
      i.to = i.from + (cmdNum(w0) + 1) * 2 ** cmdScale(w0) * unit - 1;
      const ttl = cmdTtl(w2);
      // 16K has no blocks at level 1: the hint counts as none.
      i.shift = ttl === 0 || (granule === 14 && ttl === 1) ? 0 : levelShift(granule, ttl);
    }
    this.#caches.invalidate(i);
  }
}

/** An opcode that no command has. A command of the specification without a case above does not compile here. */
function reserved(_op: never): boolean {
  return false;
}
