import { fromWords } from '../../../src/core/bits.ts';
import { stage1StartLevel, stage2StartLevel } from '../../../src/lib/walk/vmsa-regime.ts';
import {
  ADDRESS_BITS,
  CD_BYTES,
  CONFIG,
  cdA,
  cdAsid,
  cdEpd0,
  cdEpd1,
  cdIps,
  cdR,
  cdS,
  cdT0sz,
  cdT1sz,
  cdTg0,
  cdTg1,
  cdTtb0,
  cdTtb1,
  cdValid,
  DESC_TYPE,
  GRANULE0,
  GRANULE1,
  l1CdL2Ptr,
  l1CdValid,
  l1StdL2Ptr,
  l1StdSpan,
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
  steEats,
  steS1CdMax,
  steS1ContextPtr,
  steS1Dss,
  steS1Fmt,
  steS2Sl0,
  steS2T0sz,
  steS2Tg,
  steS2Ttb,
  steS2Vmid,
  steValid,
} from '../../../src/spec/smmuv3/index.ts';
import type { TraceHeader } from '../../../src/trace/index.ts';
import { lookup, type Paging, type PagingFormat, type PagingLevel, type Words } from './paging.ts';
import { hex, type StreamEntry, type StreamSpace } from './streams.ts';

const CONFIGS = ['abort', 'abort', 'abort', 'abort', 'bypass', 'stage 1', 'stage 2', 'stage 1 over stage 2'];
/** Nobody looks at more entries of a stream or context table. */
const MOST_LOG2 = 16;

function format(levels: number, granule: number, rights: PagingFormat['rights']): PagingFormat {
  return {
    kind(lo, _hi, depth) {
      const last = depth === levels - 1;
      if ((lo & 1) === 0) return 'nothing';
      if ((lo & 3) === DESC_TYPE.TABLE) return last ? 'leaf' : 'table';
      return last ? 'nothing' : 'leaf';
    },
    address(lo, hi, depth) {
      const at = fromWords(lo & ~0xfff, hi & OA_HI);
      const leaf = depth === levels - 1 || (lo & 3) === DESC_TYPE.BLOCK;
      const size = 2 ** (leaf ? levelShift(granule, 4 - levels + depth) : granule);
      return Math.floor(at / size) * size;
    },
    rights,
  };
}

const stage1Rights = (lo: number) => ((lo & S1_LO.AP2_READ_ONLY) === 0 ? 'rw' : 'r');
const stage2Rights = (lo: number) =>
  `${(lo & S2_LO.S2AP_READ) === 0 ? '' : 'r'}${(lo & S2_LO.S2AP_WRITE) === 0 ? '' : 'w'}` || 'none';

/** Levels of a table that begins at `level`; the first is as long as the input needs. */
function levelsOf(granule: number, level: number, inputBits: number): PagingLevel[] {
  return Array.from({ length: 4 - level }, (_, n) => {
    const shift = levelShift(granule, level + n);
    const bits = n === 0 ? Math.min(20, Math.max(0, inputBits - shift)) : granule - 3;
    return { name: `level ${level + n}`, shift, entries: 2 ** bits };
  });
}

function stage1(cd: Int32Array, half: 0 | 1, through: Paging | null): Paging | null {
  const granule = half === 0 ? GRANULE0[cdTg0(cd, 0)] : GRANULE1[cdTg1(cd, 0)];
  if ((half === 0 ? cdEpd0(cd, 0) : cdEpd1(cd, 0)) !== 0 || granule === undefined || granule === 0) return null;
  const inputBits = 64 - (half === 0 ? cdT0sz(cd, 0) : cdT1sz(cd, 0));
  const level = stage1StartLevel(granule, inputBits);
  if (inputBits < 25 || inputBits > 48 || level < 0 || level > 3) return null;
  const levels = levelsOf(granule, level, inputBits);
  const from = half === 0 ? 0n : (1n << 64n) - (1n << BigInt(inputBits));
  const base = half === 0 ? cdTtb0(cd, 0) : cdTtb1(cd, 0);
  return { what: `TTB${half}`, base, levels, from, format: format(levels.length, granule, stage1Rights), through };
}

function stage2(ste: Int32Array): Paging | null {
  const granule = GRANULE0[steS2Tg(ste, 0)] ?? 0;
  const inputBits = 64 - steS2T0sz(ste, 0);
  if (granule === 0 || inputBits < 25 || inputBits > 52) return null;
  const levels = levelsOf(granule, stage2StartLevel(granule, steS2Sl0(ste, 0)), inputBits);
  const base = steS2Ttb(ste, 0);
  const f = format(levels.length, granule, stage2Rights);
  return { what: 'stage 2', base, levels, from: 0n, format: f, through: null };
}

function space(words: Words, ssid: number, pasid: number, at: number, through: Paging | null): StreamSpace | null {
  const cd = words.read(at, CD_BYTES / 4);
  if (cd === null || !cdValid(cd, 0)) return null;
  const flags = [cdS(cd, 0) ? 'faults stall' : '', cdR(cd, 0) ? 'faults recorded' : '', cdA(cd, 0) ? 'aborts' : ''];
  const detail = [
    `ASID ${cdAsid(cd, 0)}`,
    `${ADDRESS_BITS[cdIps(cd, 0)]}-bit output`,
    ...flags.filter((f) => f !== ''),
  ];
  const tables = [stage1(cd, 0, through), stage1(cd, 1, through)].filter((t) => t !== null);
  const label = ssid === 0 ? 'context' : `context of SSID ${hex(ssid)}`;
  return { label, detail: detail.join(', '), pasid, at, tables };
}

/** Where each context descriptor of a stream lies. */
function* contexts(words: Words, ste: Int32Array, through: Paging | null): Generator<readonly [number, number]> {
  const place = (ipa: number) => (through === null ? ipa : lookup(words, through, BigInt(ipa)));
  const base = steS1ContextPtr(ste, 0);
  const log = Math.min(steS1CdMax(ste, 0), MOST_LOG2);
  const split = steS1Fmt(ste, 0) === S1FMT.L2_4K ? 6 : steS1Fmt(ste, 0) === S1FMT.L2_64K ? 10 : -1;
  for (let ssid = 0; ssid < 2 ** log; ssid++) {
    let at = base + ssid * CD_BYTES;
    if (log > 0 && split >= 0) {
      const l1 = words.read(place(base + (ssid >> split) * 8), 2);
      if (l1 === null || !l1CdValid(l1[0]!)) {
        ssid |= 2 ** split - 1;
        continue;
      }
      at = l1CdL2Ptr(l1[0]!, l1[1]!) + (ssid & (2 ** split - 1)) * CD_BYTES;
    }
    const placedAt = place(at);
    if (placedAt >= 0) yield [ssid, placedAt];
  }
}

function spacesOf(words: Words, ste: Int32Array): StreamSpace[] {
  const config = steConfig(ste, 0);
  const second = (config & 6) === 6 ? stage2(ste) : null;
  const out: StreamSpace[] = [];
  if ((config & 5) === 5)
    for (const [ssid, at] of contexts(words, ste, second)) {
      const without = steS1CdMax(ste, 0) === 0 || (ssid === 0 && steS1Dss(ste, 0) === S1DSS.SSID0);
      const found = space(words, ssid, without ? -1 : ssid, at, second);
      if (found !== null) out.push(found);
    }
  if (second !== null) {
    const detail = `VMID ${steS2Vmid(ste, 0)}`;
    out.push({ label: 'stage 2', detail, pasid: -1, at: -1, tables: [second] });
  }
  return out;
}

/** Where the stream table has entries: [first stream, address of its entry, how many]. */
function* stretches(words: Words): Generator<readonly [number, number, number]> {
  const [lo, hi] = words.register(PAGE0.STRTAB_BASE.at, 8);
  const base = fromWords(lo & ~0x3f, hi & 0xf_ffff);
  const [cfg] = words.register(PAGE0.STRTAB_BASE_CFG.at, 4);
  const log = Math.min(cfg & 0x3f, MOST_LOG2);
  if (((cfg >>> 16) & 3) !== STRTAB_FMT.TWO_LEVEL) {
    yield [0, base, 2 ** log];
    return;
  }
  const split = [6, 8, 10].find((s) => s === ((cfg >>> 6) & 0x1f)) ?? 6;
  for (let n = 0; n < 2 ** Math.max(0, log - split); n++) {
    const d = words.read(base + 8 * n, 2);
    if (d === null) continue;
    const span = l1StdSpan(d[0]!);
    if (span > 0 && span <= split + 1) yield [n << split, l1StdL2Ptr(d[0]!, d[1]!), 2 ** (span - 1)];
  }
}

/** Every valid stream of an SMMUv3, with what it leads to (IHI 0070 §3.3, §5.2, §5.4). */
export function smmuv3Streams(words: Words, header: TraceHeader): StreamEntry[] {
  const names = new Map(header.devices.map((d) => [d.sid, d.name]));
  const out: StreamEntry[] = [];
  for (const [first, base, count] of stretches(words)) {
    for (let n = 0; n < count; n++) {
      const at = base + STE_BYTES * n;
      const ste = words.read(at, STE_BYTES / 4);
      if (ste === null) break;
      if (!steValid(ste, 0)) continue;
      const sid = first + n;
      const config = steConfig(ste, 0);
      const plain = !names.has(sid) && config <= CONFIG.BYPASS;
      const detail = `${CONFIGS[config]}${steEats(ste, 0) === 1 ? ', ATS' : ''}`;
      const last = out.at(-1);
      if (plain && last?.name === '' && last.last === sid - 1 && last.detail === detail)
        out[out.length - 1] = { ...last, last: sid };
      else out.push({ first: sid, last: sid, name: names.get(sid) ?? '', detail, at, spaces: spacesOf(words, ste) });
    }
  }
  return out;
}
