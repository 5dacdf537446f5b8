import { ADDRESS_BITS, PAGE0, PAGE1, PAGE1_BASE } from '../../src/spec/smmuv3/registers.ts';
import type { TraceHeader } from '../../src/trace/index.ts';
import { bits, type Guest, hex, type Mapping, mappingLines, registerLines } from './guest.ts';

const CONFIGS = ['abort', 'abort', 'abort', 'abort', 'bypass', 'stage 1', 'stage 2', 'stage 1 over stage 2'];
const TG0 = [12, 16, 14];
const TG1 = [0, 14, 12, 16];
/** A guest can build tables that loop; nobody reads more ranges than this. */
const MOST_ENTRIES = 200_000;

function address(w: bigint, low: number): number {
  return Number(((w & ((1n << 52n) - 1n)) >> BigInt(low)) << BigInt(low));
}

/** Leaves of a VMSAv8-64 table in ascending order. */
function* leaves(guest: Guest, t: Table): Generator<Mapping> {
  let budget = MOST_ENTRIES;
  function* table(base: number, level: number, from: bigint, count: number): Generator<Mapping> {
    const shift = BigInt(t.granule + (t.granule - 3) * (3 - level));
    for (let n = 0; n < count; n++) {
      if (budget-- <= 0) return;
      const d = guest.q(base + 8 * n);
      if (d === null) return;
      if ((d & 1n) === 0n) continue;
      const here = from + (BigInt(n) << shift);
      const to = d & ((1n << 48n) - 1n) & ~((1n << BigInt(t.granule)) - 1n);
      if (level < 3 && (d & 2n) !== 0n) yield* table(Number(to), level + 1, here, 2 ** (t.granule - 3));
      else if (level === 3 ? (d & 2n) !== 0n : true)
        yield { from: here, to: to & ~((1n << shift) - 1n), bytes: 1n << shift, rights: t.rights(d) };
    }
  }
  const shift = t.granule + (t.granule - 3) * (3 - t.level);
  yield* table(t.base, t.level, t.from, 2 ** Math.max(0, t.bits - shift));
}

interface Table {
  readonly base: number;
  readonly granule: number;
  readonly bits: number;
  readonly level: number;
  readonly from: bigint;
  readonly rights: (d: bigint) => string;
}

function stage1Rights(d: bigint): string {
  return (d & 0x80n) === 0n ? 'rw' : 'r';
}

function stage2Rights(d: bigint): string {
  return `${(d & 0x40n) === 0n ? '' : 'r'}${(d & 0x80n) === 0n ? '' : 'w'}` || 'none';
}

function contextLines(guest: Guest, cdAt: number, limit: number): string[] {
  const cd = guest.words(cdAt, 8);
  if (cd === null) return [`    context descriptor at ${hex(cdAt)}: no memory there`];
  const w0 = cd[0]!;
  if (bits(w0, 31, 1) === 0) return [`    context descriptor at ${hex(cdAt)}: not valid (V=0)`];
  const lines = [
    `    context at ${hex(cdAt)}: ASID ${bits(w0, 48, 16)}, ${ADDRESS_BITS[bits(w0, 32, 3)]}-bit output` +
      `${bits(w0, 45, 1) ? ', faults recorded' : ''}${bits(w0, 44, 1) ? ', faults stall' : ''}`,
  ];
  for (const half of [0, 1] as const) {
    if (bits(w0, half === 0 ? 14 : 30, 1) === 1) continue;
    const granule = half === 0 ? (TG0[bits(w0, 6, 2)] ?? 0) : (TG1[bits(w0, 22, 2)] ?? 0);
    const inBits = 64 - bits(w0, half === 0 ? 0 : 16, 6);
    const base = address(cd[1 + half]!, 4);
    lines.push(
      `    TTB${half} ${hex(base)}: ${inBits}-bit input, ${granule === 0 ? 'reserved' : 2 ** (granule - 10)} KiB granule`,
    );
    if (granule === 0 || inBits < 25 || inBits > 48) continue;
    const level = 4 - Math.ceil((inBits - granule) / (granule - 3));
    const from = half === 0 ? 0n : (1n << 64n) - (1n << BigInt(inBits));
    lines.push(
      ...mappingLines(
        leaves(guest, { base, granule, bits: inBits, level, from, rights: stage1Rights }),
        limit,
        '      ',
      ),
    );
  }
  return lines;
}

function stage2Lines(guest: Guest, ste: readonly bigint[], limit: number): string[] {
  const w2 = ste[2]!;
  const granule = TG0[bits(w2, 46, 2)] ?? 0;
  const inBits = 64 - bits(w2, 32, 6);
  const base = address(ste[3]!, 4);
  const level = (granule === 12 ? 2 : 3) - bits(w2, 38, 2);
  const lines = [`    stage 2: VMID ${bits(w2, 0, 16)}, S2TTB ${hex(base)}, ${inBits}-bit input, start level ${level}`];
  if (granule === 0 || inBits < 25 || inBits > 52 || level < 0) return lines;
  lines.push(
    ...mappingLines(
      leaves(guest, { base, granule, bits: inBits, level, from: 0n, rights: stage2Rights }),
      limit,
      '      ',
    ),
  );
  return lines;
}

function streamLines(guest: Guest, sid: number, name: string, steAt: number, limit: number): string[] {
  const ste = guest.words(steAt, 8);
  if (ste === null || bits(ste[0]!, 0, 1) === 0) return [];
  const config = bits(ste[0]!, 1, 3);
  const lines = [`  stream ${hex(sid)}${name === '' ? '' : ` (${name})`}: ${CONFIGS[config]}, entry at ${hex(steAt)}`];
  const cdMax = bits(ste[0]!, 59, 5);
  if (config === 5 || config === 7) {
    if (cdMax > 0) lines.push(`    2^${cdMax} contexts; the first:`);
    lines.push(...contextLines(guest, address(ste[0]!, 6), limit));
  }
  if (config === 6 || config === 7) lines.push(...stage2Lines(guest, ste, limit));
  return lines;
}

/** Where the stream table has entries: [first stream, address of the first entry, how many]. */
function* stretches(guest: Guest): Generator<[number, number, number]> {
  const base = address(guest.register(PAGE0.STRTAB_BASE.at, 8), 6);
  const cfg = guest.register(PAGE0.STRTAB_BASE_CFG.at, 4);
  const log = Math.min(bits(cfg, 0, 6), 16);
  if (bits(cfg, 16, 2) !== 1) {
    yield [0, base, 2 ** log];
    return;
  }
  const split = [6, 8, 10].find((s) => s === bits(cfg, 6, 5)) ?? 6;
  for (let n = 0; n < 2 ** Math.max(0, log - split); n++) {
    const d = guest.q(base + 8 * n) ?? 0n;
    const span = bits(d, 0, 5);
    if (span > 0 && span <= split + 1) yield [n << split, address(d, 6), 2 ** (span - 1)];
  }
}

/** All valid entries; runs of streams that nobody has a name for and that need no tables are one line. */
function streamTableLines(guest: Guest, names: ReadonlyMap<number, string>, limit: number): string[] {
  const lines: string[] = [];
  let run = { config: '', first: 0, last: 0 };
  const flush = () => {
    const range = run.first === run.last ? ` ${hex(run.first)}` : `s ${hex(run.first)} to ${hex(run.last)}`;
    if (run.config !== '') lines.push(`  stream${range}: ${run.config}`);
    run = { config: '', first: 0, last: 0 };
  };
  for (const [first, at, count] of stretches(guest)) {
    for (let n = 0; n < count; n++) {
      const w0 = guest.q(at + 64 * n) ?? 0n;
      const sid = first + n;
      const config = bits(w0, 0, 1) === 0 ? '' : CONFIGS[bits(w0, 1, 3)]!;
      const plain = names.has(sid) || !(config === 'abort' || config === 'bypass') ? '' : config;
      if (plain !== '' && plain === run.config && sid === run.last + 1) run.last = sid;
      else {
        flush();
        if (plain !== '') run = { config: plain, first: sid, last: sid };
        else lines.push(...streamLines(guest, sid, names.get(sid) ?? '', at + 64 * n, limit));
      }
    }
  }
  flush();
  return lines;
}

/** Everything the guest has told its SMMU, in words. */
export function explainSmmuv3(guest: Guest, header: TraceHeader, limit: number): string[] {
  const names = new Map(header.devices.map((d) => [d.sid, d.name]));
  const lines = ['Registers (those that are not zero)'];
  lines.push(
    ...registerLines(guest, PAGE0, 0, header.mmio.size),
    ...registerLines(guest, PAGE1, PAGE1_BASE, header.mmio.size),
  );
  const cr0 = guest.register(PAGE0.CR0.at, 4);
  lines.push('', 'Stream table');
  const streams = streamTableLines(guest, names, limit);
  lines.push(...(streams.length === 0 ? ['  no valid entry'] : streams));
  if (bits(cr0, 0, 1) === 0) lines.push('  (the SMMU is off: no stream is looked up)');
  return lines;
}
