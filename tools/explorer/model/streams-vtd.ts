import {
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
  TTM,
  vtdLevelShift,
} from '../../../src/spec/vtd/index.ts';
import type { TraceHeader } from '../../../src/trace/index.ts';
import type { Paging, PagingFormat, Words } from './paging.ts';
import { hex, type StreamEntry, type StreamSpace } from './streams.ts';

const PGTT_NAME: { readonly [pgtt: number]: string } = {
  [PGTT.FIRST]: 'first stage',
  [PGTT.SECOND]: 'second stage',
  [PGTT.NESTED]: 'first stage over second stage',
  [PGTT.PASS_THROUGH]: 'pass-through',
};
const ENTRIES = 512;

function format(levels: number, present: number): PagingFormat {
  const leaf = (lo: number, depth: number) => {
    const level = levels - depth;
    return level === 1 || (level <= 3 && (lo & SS.PS) !== 0);
  };
  return {
    kind: (lo, _hi, depth) => ((lo & present) === 0 ? 'nothing' : leaf(lo, depth) ? 'leaf' : 'table'),
    address(lo, hi, depth) {
      const size = leaf(lo, depth) ? 2 ** vtdLevelShift(levels - depth) : 4096;
      return Math.floor(pointer(lo, hi) / size) * size;
    },
    rights: (lo) =>
      present === FS.P
        ? `r${(lo & FS.RW) === 0 ? '' : 'w'}`
        : `${(lo & SS.R) === 0 ? '' : 'r'}${(lo & SS.W) === 0 ? '' : 'w'}`,
  };
}

function paging(what: string, base: number, count: number, present: number, through: Paging | null): Paging | null {
  if (count < 3 || count > 5) return null;
  const levels = Array.from({ length: count }, (_, n) => ({
    name: `level ${count - n}`,
    shift: vtdLevelShift(count - n),
    entries: ENTRIES,
  }));
  return { what, base, levels, from: 0n, format: format(count, present), through };
}

const secondStage = (base: number, aw: number) => paging('second stage', base, aw + 2, SS.R | SS.W, null);

function legacy(words: Words, at: number): { readonly detail: string; readonly spaces: StreamSpace[] } | null {
  const c = words.read(at, CONTEXT_BYTES / 4);
  if (c === null || !context.p(c[0]!)) return null;
  const tt = context.tt(c[0]!);
  const how = tt === TT.PASS_THROUGH ? 'pass-through' : tt === TT.ALL ? 'translated, device TLB allowed' : 'translated';
  const detail = `domain ${context.did(c[2]!)}, ${how}`;
  const table = tt === TT.PASS_THROUGH ? null : secondStage(context.ssptptr(c[0]!, c[1]!), context.aw(c[2]!));
  const spaces = table === null ? [] : [{ label: 'second stage', detail: '', pasid: -1, at: -1, tables: [table] }];
  return { detail, spaces };
}

function pasidSpace(words: Words, pasid: number, of: number, at: number): StreamSpace | null {
  const p = words.read(at, PASID_BYTES / 4);
  if (p === null || !pasidEntry.p(p[0]!)) return null;
  const pgtt = pasidEntry.pgtt(p[0]!);
  const has = (...kinds: readonly number[]) => kinds.includes(pgtt);
  const second = has(PGTT.SECOND, PGTT.NESTED)
    ? secondStage(pasidEntry.ssptptr(p[0]!, p[1]!), pasidEntry.aw(p[0]!))
    : null;
  const levels = pasidEntry.fspm(p[4]!) === FSPM.FIVE_LEVELS ? 5 : 4;
  const first = has(PGTT.FIRST, PGTT.NESTED)
    ? paging('first stage', pasidEntry.fsptptr(p[4]!, p[5]!), levels, FS.P, pgtt === PGTT.NESTED ? second : null)
    : null;
  const detail = `domain ${pasidEntry.did(p[2]!)}, ${PGTT_NAME[pgtt] ?? `reserved type ${pgtt}`}`;
  const tables = [first, second].filter((t) => t !== null);
  return { label: `PASID ${hex(pasid)}`, detail, pasid: of, at, tables };
}

function scalable(words: Words, at: number): { readonly detail: string; readonly spaces: StreamSpace[] } | null {
  const c = words.read(at, SM_CONTEXT_BYTES / 4);
  if (c === null || !smContext.p(c[0]!)) return null;
  const dirAt = smContext.pasiddirptr(c[0]!, c[1]!);
  const spaces: StreamSpace[] = [];
  for (let d = 0; d < 2 ** (smContext.pdts(c[0]!) + 7); d++) {
    const dir = words.read(dirAt + d * PASID_DIR_BYTES, 2);
    if (dir === null) break;
    if (!pasidDir.p(dir[0]!)) continue;
    for (let n = 0; n < 64; n++) {
      const pasid = d * 64 + n;
      const of = pasid === smContext.ridPasid(c[2]!) ? -1 : pasid;
      const found = pasidSpace(words, pasid, of, pasidDir.smptblptr(dir[0]!, dir[1]!) + n * PASID_BYTES);
      if (found !== null) spaces.push(found);
    }
  }
  const ats = smContext.dte(c[0]!) ? ', device TLB allowed' : '';
  return { detail: `PASID directory at ${hex(dirAt)}${ats}`, spaces };
}

/** Every requester with a present context entry, with what it leads to (D51397 §3.4, §9.1 to §9.6). */
export function vtdStreams(words: Words, header: TraceHeader): StreamEntry[] {
  const names = new Map(header.devices.map((d) => [d.sid, d.name]));
  const [lo, hi] = words.register(PAGE.RTADDR.at, 8);
  const isScalable = ((lo >>> 10) & 3) === TTM.SCALABLE;
  const out: StreamEntry[] = [];
  for (let bus = 0; bus < 256; bus++) {
    const r = words.read(pointer(lo, hi) + ROOT_BYTES * bus, ROOT_BYTES / 4);
    if (r === null) break;
    for (let devfn = 0; devfn < 256; devfn++) {
      const half = isScalable && devfn >= 0x80 ? 2 : 0;
      if (!root.p(r[half]!)) continue;
      const table = root.pointer(r[half]!, r[half + 1]!);
      const at = table + (isScalable ? (devfn & 0x7f) * SM_CONTEXT_BYTES : devfn * CONTEXT_BYTES);
      const found = isScalable ? scalable(words, at) : legacy(words, at);
      const sid = (bus << 8) | devfn;
      if (found !== null) out.push({ first: sid, last: sid, name: names.get(sid) ?? '', at, ...found });
    }
  }
  return out;
}
