import { fromWords, hiWord, loWord } from '../core/bits.ts';
import { stage1StartLevel, stage2StartLevel } from '../lib/walk/vmsa-regime.ts';
import {
  ADDRESS_BITS,
  CD_BYTES,
  CONFIG,
  cdAffd,
  cdEpd0,
  cdEpd1,
  cdHa,
  cdIps,
  cdT0sz,
  cdT1sz,
  cdTg0,
  cdTg1,
  cdTtb0,
  cdTtb1,
  cdValid,
  DESC_TYPE,
  DESCRIPTOR_BYTES,
  GRANULE0,
  GRANULE1,
  l1CdL2Ptr,
  l1CdValid,
  levelShift,
  OA_HI,
  PAGE0,
  S1_LO,
  S1DSS,
  S1FMT,
  S2_LO,
  STE_BYTES,
  STRTAB_FMT,
  steConfig,
  steS1CdMax,
  steS1ContextPtr,
  steS1Dss,
  steS1Fmt,
  steS2Affd,
  steS2Ha,
  steS2Ps,
  steS2Sl0,
  steS2T0sz,
  steS2Tg,
  steS2Ttb,
  steValid,
  TABLE_HI,
} from '../spec/smmuv3/index.ts';
import type { ReplayTarget } from '../trace/index.ts';
import { addressBits, type GuestWalk, offsetIn, WalkedTables } from './walk.ts';

/** A table of either stage: where it begins, and how its levels are cut. */
interface Table {
  readonly what: string;
  readonly base: number;
  readonly granule: number;
  readonly level: number;
  readonly inputBits: number;
  /** Addresses it gives lie below 2^outputBits. */
  readonly outputBits: number;
  /** A leaf whose access flag is clear faults: neither does hardware set it nor is it ignored. */
  readonly needsAf: boolean;
}

/** What a translation step found: an address, or why there is none. */
type Found = number | string;

/** Follows one access through the stream table, the contexts and both stages of an SMMUv3's guest tables. */
class Smmuv3TablesWalk {
  readonly #r: WalkedTables;
  /** The table of stage 2, when it translates. */
  #stage2: Table | null = null;

  constructor(reader: WalkedTables) {
    this.#r = reader;
  }

  walk(sid: number, lo: number, hi: number, ssid: number): GuestWalk {
    const r = this.#r;
    if ((r.register(PAGE0.CR0.at) & 1) === 0) return r.arrives(fromWords(lo, hi), 'the SMMU is off (SMMUEN=0)');
    const ste = this.#streamEntry(sid);
    if (typeof ste === 'string') return r.stops(ste);
    if (!steValid(ste, 0)) return r.stops('the STE is not valid (V=0)');
    const config = steConfig(ste, 0);
    if (ssid >= 0 && config >= CONFIG.BYPASS && (config & 1) === 0)
      return r.stops('stage 1 is off: no SubstreamID is accepted');
    if (config === CONFIG.BYPASS) return r.arrives(fromWords(lo, hi), 'the stream bypasses translation');
    if (config < CONFIG.BYPASS) return r.stops('the STE aborts every access');
    if ((config & 2) !== 0) {
      const granule = GRANULE0[steS2Tg(ste, 0)] ?? 0;
      if (granule === 0) return r.stops('STE.S2TG is reserved');
      const level = stage2StartLevel(granule, steS2Sl0(ste, 0));
      const needsAf = steS2Ha(ste, 0) === 0 && steS2Affd(ste, 0) === 0;
      const inputBits = 64 - steS2T0sz(ste, 0);
      const outputBits = ADDRESS_BITS[steS2Ps(ste, 0)] ?? 52;
      this.#stage2 = { what: 'stage 2', base: steS2Ttb(ste, 0), granule, level, inputBits, outputBits, needsAf };
    }
    if ((config & 1) === 0) return this.#end(this.#stage2Of(fromWords(lo, hi)));
    return this.#stage1(ste, lo, hi, ssid);
  }

  #end(found: Found): GuestWalk {
    return typeof found === 'string' ? this.#r.stops(found) : this.#r.arrives(found);
  }

  #streamEntry(sid: number): Int32Array | string {
    const r = this.#r;
    const [lo, hi] = r.register64(PAGE0.STRTAB_BASE.at);
    const base = fromWords(lo & ~0x3f, hi & 0xf_ffff);
    const cfg = r.register(PAGE0.STRTAB_BASE_CFG.at);
    if (sid >= 2 ** (cfg & 0x3f)) return 'the StreamID lies beyond the stream table';
    if (((cfg >>> 16) & 3) !== STRTAB_FMT.TWO_LEVEL)
      return r.entry('STE', base + sid * STE_BYTES, STE_BYTES) ?? 'the STE is outside of memory';
    const split = [6, 8, 10].find((s) => s === ((cfg >>> 6) & 0x1f)) ?? 6;
    const l1 = r.entry('level-1 stream table descriptor', base + Math.floor(sid / 2 ** split) * 8, 8);
    if (l1 === null) return 'the level-1 stream table descriptor is outside of memory';
    const span = l1[0]! & 0x1f;
    const index = sid % 2 ** split;
    if (span === 0 || index >= 2 ** (span - 1)) return 'the level-1 stream table descriptor does not reach this stream';
    const at = fromWords(l1[0]! & ~0x3f, l1[1]! & 0xf_ffff) + index * STE_BYTES;
    return r.entry('STE', at, STE_BYTES) ?? 'the STE is outside of memory';
  }

  #context(ste: Int32Array, index: number): Int32Array | string {
    const r = this.#r;
    let at = this.#stage2Of(steS1ContextPtr(ste, 0), true);
    if (typeof at === 'string') return at;
    if (steS1CdMax(ste, 0) > 0 && steS1Fmt(ste, 0) !== S1FMT.LINEAR) {
      const l2Bits = steS1Fmt(ste, 0) === S1FMT.L2_4K ? 6 : 10;
      const l1 = r.entry('level-1 CD descriptor', at + (index >>> l2Bits) * 8, 8);
      if (l1 === null || !l1CdValid(l1[0]!)) return 'the level-1 CD descriptor is not valid';
      at = this.#stage2Of(l1CdL2Ptr(l1[0]!, l1[1]!) + (index & (2 ** l2Bits - 1)) * CD_BYTES, true);
      if (typeof at === 'string') return at;
    } else if (index > 0) {
      at = this.#stage2Of(steS1ContextPtr(ste, 0) + index * CD_BYTES, true);
      if (typeof at === 'string') return at;
    }
    return r.entry('CD', at, CD_BYTES) ?? 'the CD is outside of memory';
  }

  #stage1(ste: Int32Array, lo: number, hi: number, ssid: number): GuestWalk {
    if (ssid >= 0) {
      if (ssid >= 2 ** steS1CdMax(ste, 0) || steS1CdMax(ste, 0) === 0)
        return this.#r.stops('the SubstreamID lies beyond the contexts of the stream (S1CDMax)');
      if (ssid === 0 && steS1Dss(ste, 0) === S1DSS.SSID0)
        return this.#r.stops('SubstreamID 0 is that of accesses without one (S1DSS)');
    } else if (steS1CdMax(ste, 0) > 0) {
      if (steS1Dss(ste, 0) === S1DSS.TERMINATE)
        return this.#r.stops('the STE aborts accesses without a SubstreamID (S1DSS)');
      if (steS1Dss(ste, 0) === S1DSS.BYPASS) return this.#end(this.#stage2Of(fromWords(lo, hi)));
    }
    const cd = this.#context(ste, Math.max(ssid, 0));
    if (typeof cd === 'string') return this.#r.stops(cd);
    if (!cdValid(cd, 0)) return this.#r.stops('the CD is not valid (V=0)');
    // Bit 55 chooses the half, whether or not the top byte is ignored (DDI 0487 D8.2.4).
    const half = (hi >>> 23) & 1;
    const granule = half === 0 ? GRANULE0[cdTg0(cd, 0)] : GRANULE1[cdTg1(cd, 0)];
    if ((half === 0 ? cdEpd0(cd, 0) : cdEpd1(cd, 0)) !== 0)
      return this.#r.stops(`the CD disables TTB${half} (EPD${half}=1)`);
    if (granule === undefined || granule === 0) return this.#r.stops(`CD.TG${half} is reserved`);
    const inputBits = 64 - (half === 0 ? cdT0sz(cd, 0) : cdT1sz(cd, 0));
    // The bits above the input size are those of the half; the ignored top byte apart (TBI).
    const top = addressBits(lo, hi, inputBits, 55 - inputBits);
    if (inputBits < 55 && top !== (half === 0 ? 0 : 2 ** (55 - inputBits) - 1))
      return this.#r.stops(`the address lies outside of the range of TTB${half}`);
    const base = half === 0 ? cdTtb0(cd, 0) : cdTtb1(cd, 0);
    const level = stage1StartLevel(granule, inputBits);
    const outputBits = ADDRESS_BITS[cdIps(cd, 0)] ?? 52;
    const needsAf = cdHa(cd, 0) === 0 && cdAffd(cd, 0) === 0;
    const ipa = this.#walk({ what: 'stage 1', base, granule, level, inputBits, outputBits, needsAf }, lo, hi);
    return this.#end(typeof ipa === 'string' ? ipa : this.#stage2Of(ipa));
  }

  /**
   * Where stage 2 sends an intermediate address; the address itself when it does not translate.
   * @param ofTable a table of stage 1 or a context lies there: that it may be read is enough.
   */
  #stage2Of(ipa: number, ofTable = false): Found {
    const t = this.#stage2;
    return t === null ? ipa : this.#walk(t, loWord(ipa), hiWord(ipa), ofTable);
  }

  #walk(t: Table, lo: number, hi: number, ofTable = false): Found {
    const nested = t !== this.#stage2;
    if (!nested && fromWords(lo, hi) >= 2 ** t.inputBits) return 'the address lies outside of the range of stage 2';
    let base = t.base;
    for (let level = t.level; level <= 3; level++) {
      const shift = levelShift(t.granule, level);
      // The first level has as many entries as the input needs: concatenated tables of stage 2 are one long one.
      const count = level === t.level ? Math.min(Math.max(t.inputBits - shift, 0), 20) : t.granule - 3;
      const ipa = base + addressBits(lo, hi, shift, count) * DESCRIPTOR_BYTES;
      const at = nested ? this.#stage2Of(ipa, true) : ipa;
      if (typeof at === 'string') return at;
      const d = this.#r.entry(`${t.what}, level ${level}`, at, DESCRIPTOR_BYTES);
      if (d === null) return `the ${t.what} table of level ${level} is outside of memory`;
      const type = d[0]! & 3;
      if ((type & 1) === 0) return `the ${t.what} entry of level ${level} is not valid`;
      const table = level < 3 && type === DESC_TYPE.TABLE;
      if (nested)
        this.#r.grants(true, table ? (d[1]! & TABLE_HI.AP1_READ_ONLY) === 0 : (d[0]! & S1_LO.AP2_READ_ONLY) === 0);
      else if (!table && !ofTable) this.#r.grants((d[0]! & S2_LO.S2AP_READ) !== 0, (d[0]! & S2_LO.S2AP_WRITE) !== 0);
      const next = fromWords(d[0]! & ~0xfff, d[1]! & OA_HI);
      if (next >= 2 ** t.outputBits) return `the ${t.what} entry of level ${level} points beyond ${t.outputBits} bits`;
      if (!table && t.needsAf && (d[0]! & S1_LO.AF) === 0)
        return `the access flag of the ${t.what} entry is clear (AF=0)`;
      if (table) base = Math.floor(next / 2 ** t.granule) * 2 ** t.granule;
      else if (level === 3 && type !== DESC_TYPE.TABLE) return `the ${t.what} entry of level 3 is reserved`;
      else return Math.floor(next / 2 ** shift) * 2 ** shift + offsetIn(lo, hi, shift);
    }
    return `the ${t.what} table has no such level`;
  }
}

/** The same with a reader of its own. */
export function walkSmmuv3Tables(tables: WalkedTables, sid: number, lo: number, hi: number): GuestWalk {
  return new Smmuv3TablesWalk(tables).walk(sid, lo, hi, -1);
}

/**
 * The way of an access through an SMMUv3's tables as they are in guest memory now (what caches hold may
 * differ): stream table, context descriptors, both stages (IHI 0070 §3.3, §3.4; DDI 0487 §D8).
 * @param sid StreamID. @param lo low word of the address. @param hi high word. @param ssid SubstreamID; -1: without one.
 */
export function smmuv3GuestWalk(target: ReplayTarget, sid: number, lo: number, hi: number, ssid = -1): GuestWalk {
  return new Smmuv3TablesWalk(new WalkedTables(target)).walk(sid, lo, hi, ssid);
}
