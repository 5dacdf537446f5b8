import { fromWords, hiWord, loWord } from '../core/bits.ts';
import {
  beyondWidth,
  CONTEXT_BYTES,
  context,
  FS,
  FSPM,
  PAGE,
  PASID_BYTES,
  PASID_DIR_BYTES,
  PGTT,
  pasidDir,
  pasidEntry,
  pointer,
  ROOT_BYTES,
  root,
  SM_CONTEXT_BYTES,
  SS,
  smContext,
  TT,
  vtdLevelShift,
} from '../spec/vtd/index.ts';
import type { ReplayTarget } from '../trace/index.ts';
import { addressBits, type GuestWalk, offsetIn, WalkedTables } from './walk.ts';

/** Bits of RTADDR that say which tables it points at: 01 scalable mode (§11.4.5). */
const SCALABLE = 1;
const ENTRY_BYTES = 8;

type Found = number | string;

/** Follows one access through root, context and PASID tables and the paging structures of a VT-d unit's guest. */
class VtdTablesWalk {
  readonly #r: WalkedTables;
  /** Top of the second stage that first-stage walks go through, and its levels; null: they do not. */
  #second: { readonly base: number; readonly levels: number } | null = null;

  constructor(reader: WalkedTables) {
    this.#r = reader;
  }

  walk(rid: number, lo: number, hi: number, pasid: number): GuestWalk {
    const r = this.#r;
    if (r.register(PAGE.GSTS.at) >= 0) return r.arrives(fromWords(lo, hi), 'translation is off (TES=0)');
    const [rtLo, rtHi] = r.register64(PAGE.RTADDR.at);
    const scalable = ((rtLo >>> 10) & 3) === SCALABLE;
    const devfn = rid & 0xff;
    const entry = r.entry('root entry', pointer(rtLo, rtHi) + (rid >>> 8) * ROOT_BYTES, ROOT_BYTES);
    if (entry === null) return r.stops('the root entry is outside of memory');
    const half = scalable && devfn >= 0x80 ? 2 : 0;
    if (!root.p(entry[half]!)) return r.stops('the root entry is not present');
    const table = root.pointer(entry[half]!, entry[half + 1]!);
    if (scalable) return this.#scalable(table, devfn, lo, hi, pasid);
    if (pasid >= 0) return r.stops('requests with a PASID need scalable mode');
    return this.#legacy(table, devfn, lo, hi);
  }

  #end(found: Found): GuestWalk {
    return typeof found === 'string' ? this.#r.stops(found) : this.#r.arrives(found);
  }

  #legacy(table: number, devfn: number, lo: number, hi: number): GuestWalk {
    const r = this.#r;
    const c = r.entry('context entry', table + devfn * CONTEXT_BYTES, CONTEXT_BYTES);
    if (c === null) return r.stops('the context entry is outside of memory');
    if (!context.p(c[0]!)) return r.stops('the context entry is not present');
    if (context.tt(c[0]!) === TT.PASS_THROUGH) return r.arrives(fromWords(lo, hi), 'the context entry passes through');
    const base = context.ssptptr(c[0]!, c[1]!);
    return this.#end(this.#walk('second stage', base, context.aw(c[2]!) + 2, lo, hi));
  }

  #scalable(table: number, devfn: number, lo: number, hi: number, of: number): GuestWalk {
    const r = this.#r;
    const c = r.entry('scalable context entry', table + (devfn & 0x7f) * SM_CONTEXT_BYTES, SM_CONTEXT_BYTES);
    if (c === null) return r.stops('the context entry is outside of memory');
    if (!smContext.p(c[0]!)) return r.stops('the context entry is not present');
    if (of >= 0 && !smContext.paside(c[0]!)) return r.stops('the context entry takes no PASIDs (PASIDE=0)');
    const pasid = of >= 0 ? of : smContext.ridPasid(c[2]!);
    if (pasid >>> 6 >= 2 ** (smContext.pdts(c[0]!) + 7)) return r.stops('the PASID lies beyond the directory (PDTS)');
    const dirAt = smContext.pasiddirptr(c[0]!, c[1]!) + (pasid >>> 6) * PASID_DIR_BYTES;
    const dir = r.entry('PASID directory entry', dirAt, PASID_DIR_BYTES);
    if (dir === null || !pasidDir.p(dir[0]!)) return r.stops('the PASID directory entry is not present');
    const at = pasidDir.smptblptr(dir[0]!, dir[1]!) + (pasid & 0x3f) * PASID_BYTES;
    const p = r.entry('PASID entry', at, PASID_BYTES);
    if (p === null || !pasidEntry.p(p[0]!)) return r.stops('the PASID entry is not present');
    return this.#pasid(p, lo, hi);
  }

  #pasid(p: Int32Array, lo: number, hi: number): GuestWalk {
    const r = this.#r;
    const second = { base: pasidEntry.ssptptr(p[0]!, p[1]!), levels: pasidEntry.aw(p[0]!) + 2 };
    const firstLevels = pasidEntry.fspm(p[4]!) === FSPM.FIVE_LEVELS ? 5 : 4;
    const first = pasidEntry.fsptptr(p[4]!, p[5]!);
    switch (pasidEntry.pgtt(p[0]!)) {
      case PGTT.PASS_THROUGH:
        return r.arrives(fromWords(lo, hi), 'the PASID entry passes through');
      case PGTT.SECOND:
        return this.#end(this.#walk('second stage', second.base, second.levels, lo, hi));
      case PGTT.FIRST:
        return this.#end(this.#walk('first stage', first, firstLevels, lo, hi));
      case PGTT.NESTED: {
        this.#second = second;
        const middle = this.#walk('first stage', first, firstLevels, lo, hi);
        return this.#end(typeof middle === 'string' ? middle : this.#secondOf(middle, false));
      }
      default:
        return r.stops('the PASID entry has a reserved translation type');
    }
  }

  /** @param ofTable the address is where a table of the first stage lies: that it may be read is enough. */
  #secondOf(address: number, ofTable: boolean): Found {
    const s = this.#second;
    if (s === null) return address;
    return this.#walk('second stage', s.base, s.levels, loWord(address), hiWord(address), ofTable);
  }

  #walk(
    what: 'first stage' | 'second stage',
    top: number,
    levels: number,
    lo: number,
    hi: number,
    ofTable = false,
  ): Found {
    const present = what === 'first stage' ? 1 : SS.R | SS.W;
    if (what === 'second stage' && beyondWidth(levels, hi)) return `the address lies beyond the width of the ${what}`;
    let base = top;
    for (let level = levels; level >= 1; level--) {
      const shift = vtdLevelShift(level);
      const middle = base + addressBits(lo, hi, shift, 9) * ENTRY_BYTES;
      const at = what === 'first stage' ? this.#secondOf(middle, true) : middle;
      if (typeof at === 'string') return at;
      const d = this.#r.entry(`${what}, level ${level}`, at, ENTRY_BYTES);
      if (d === null) return `the ${what} table of level ${level} is outside of memory`;
      if ((d[0]! & present) === 0) return `the ${what} entry of level ${level} is not present`;
      if (what === 'first stage') this.#r.grants(true, (d[0]! & FS.RW) !== 0);
      else if (!ofTable) this.#r.grants((d[0]! & SS.R) !== 0, (d[0]! & SS.W) !== 0);
      const next = pointer(d[0]!, d[1]!);
      const leaf = level === 1 || (level <= 3 && (d[0]! & SS.PS) !== 0);
      if (leaf) return Math.floor(next / 2 ** shift) * 2 ** shift + offsetIn(lo, hi, shift);
      base = next;
    }
    return `the ${what} has no levels`;
  }
}

/** The same with a reader of its own. */
export function walkVtdTables(tables: WalkedTables, rid: number, lo: number, hi: number): GuestWalk {
  return new VtdTablesWalk(tables).walk(rid, lo, hi, -1);
}

/**
 * The way of an access through a VT-d unit's tables as they are in guest memory now (what caches hold may
 * differ): root, context and PASID tables, both stages (D51397 §3.4, §3.6, §3.7, §9).
 * @param rid requester id. @param lo low word of the address. @param hi high word. @param pasid -1: without one.
 */
export function vtdGuestWalk(target: ReplayTarget, rid: number, lo: number, hi: number, pasid = -1): GuestWalk {
  return new VtdTablesWalk(new WalkedTables(target)).walk(rid, lo, hi, pasid);
}
