import { PAGE } from '../../src/spec/vtd/registers.ts';
import type { TraceHeader } from '../../src/trace/index.ts';
import { bits, type Guest, hex, type Mapping, mappingLines, registerLines } from './guest.ts';

const MOST_ENTRIES = 200_000;
const PGTT: { readonly [pgtt: number]: string } = {
  1: 'first stage',
  2: 'second stage',
  3: 'nested',
  4: 'pass-through',
};

function pointer(w: bigint): number {
  return Number(w & 0xf_ffff_ffff_f000n);
}

/** Leaves of a paging structure in ascending order; `first` reads x86 entries, else second-stage ones. */
function* leaves(guest: Guest, root: number, levels: number, first: boolean): Generator<Mapping> {
  let budget = MOST_ENTRIES;
  function* table(base: number, level: number, from: bigint): Generator<Mapping> {
    const shift = BigInt(3 + 9 * level);
    for (let n = 0; n < 512; n++) {
      if (budget-- <= 0) return;
      const d = guest.q(base + 8 * n);
      if (d === null) return;
      if ((d & (first ? 1n : 3n)) === 0n) continue;
      const here = from + (BigInt(n) << shift);
      if (level > 1 && (level > 3 || (d & 0x80n) === 0n)) yield* table(pointer(d), level - 1, here);
      else {
        const rights = `${(d & 1n) === 0n ? '' : 'r'}${(d & 2n) === 0n ? '' : 'w'}`;
        yield { from: here, to: BigInt(pointer(d)) & ~((1n << shift) - 1n), bytes: 1n << shift, rights };
      }
    }
  }
  yield* table(root, levels, 0n);
}

function tableLines(guest: Guest, what: string, root: number, levels: number, first: boolean, limit: number): string[] {
  const lines = [`    ${what} at ${hex(root)}, ${levels} levels`];
  if (levels >= 3 && levels <= 5) lines.push(...mappingLines(leaves(guest, root, levels, first), limit, '      '));
  return lines;
}

function legacyContext(guest: Guest, at: number, limit: number): string[] | null {
  const [lo, hi] = guest.words(at, 2) ?? [0n, 0n];
  if ((lo! & 1n) === 0n) return null;
  const tt = bits(lo!, 2, 2);
  const lines = [
    `    domain ${bits(hi!, 8, 16)}, ${tt === 2 ? 'pass-through' : tt === 1 ? 'translated, device TLB allowed' : 'translated'}`,
  ];
  if (tt !== 2) lines.push(...tableLines(guest, 'second stage', pointer(lo!), bits(hi!, 0, 3) + 2, false, limit));
  return lines;
}

function pasidLines(guest: Guest, pasid: number, at: number, limit: number): string[] {
  const w = guest.words(at, 8);
  if (w === null || (w[0]! & 1n) === 0n) return [];
  const pgtt = bits(w[0]!, 6, 3);
  const lines = [`    PASID ${hex(pasid)}: domain ${bits(w[1]!, 0, 16)}, ${PGTT[pgtt] ?? `reserved type ${pgtt}`}`];
  if (pgtt === 1 || pgtt === 3)
    lines.push(...tableLines(guest, 'first stage', pointer(w[2]!), bits(w[2]!, 2, 2) === 1 ? 5 : 4, true, limit));
  if (pgtt === 2 || pgtt === 3)
    lines.push(...tableLines(guest, 'second stage', pointer(w[0]!), bits(w[0]!, 2, 3) + 2, false, limit));
  return lines;
}

function scalableContext(guest: Guest, at: number, limit: number): string[] | null {
  const q = guest.words(at, 2);
  if (q === null || (q[0]! & 1n) === 0n) return null;
  const lines = [`    PASID directory at ${hex(pointer(q[0]!))}${(q[0]! & 4n) === 0n ? '' : ', device TLB allowed'}`];
  const entries = 2 ** (bits(q[0]!, 9, 3) + 7);
  for (let d = 0; d < entries; d++) {
    const dir = guest.q(pointer(q[0]!) + 8 * d) ?? 0n;
    if ((dir & 1n) === 0n) continue;
    for (let n = 0; n < 64; n++) lines.push(...pasidLines(guest, d * 64 + n, pointer(dir) + 64 * n, limit));
  }
  return lines;
}

function contextLines(guest: Guest, header: TraceHeader, limit: number): string[] {
  const names = new Map(header.devices.map((d) => [d.sid, d.name]));
  const rtaddr = guest.register(PAGE.RTADDR.at, 8);
  const scalable = bits(rtaddr, 10, 2) === 1;
  const lines: string[] = [];
  for (let bus = 0; bus < 256; bus++) {
    const root = guest.words(pointer(rtaddr) + 16 * bus, 2);
    if (root === null) break;
    for (let devfn = 0; devfn < 256; devfn++) {
      const half = scalable ? root[devfn >> 7]! : root[0]!;
      if ((half & 1n) === 0n) continue;
      const found = scalable
        ? scalableContext(guest, pointer(half) + 32 * (devfn & 127), limit)
        : legacyContext(guest, pointer(half) + 16 * devfn, limit);
      if (found === null) continue;
      const sid = (bus << 8) | devfn;
      lines.push(`  requester ${hex(sid)}${names.has(sid) ? ` (${names.get(sid)})` : ''}`, ...found);
    }
  }
  return lines;
}

function remapLines(guest: Guest): string[] {
  const irta = guest.register(PAGE.IRTA.at, 8);
  if (irta === 0n) return ['  no table'];
  const lines: string[] = [];
  const count = 2 ** (bits(irta, 0, 4) + 1);
  for (let n = 0; n < count; n++) {
    const w = guest.words(pointer(irta) + 16 * n, 2);
    if (w === null) break;
    if ((w[0]! & 1n) === 0n) continue;
    const destination = (irta & 0x800n) === 0n ? bits(w[0]!, 40, 8) : bits(w[0]!, 32, 32);
    lines.push(`  ${n}: vector ${hex(bits(w[0]!, 16, 8))} to APIC ${destination}, source ${hex(bits(w[1]!, 0, 16))}`);
  }
  return lines.length === 0 ? ['  no present entry'] : lines;
}

/** Everything the guest has told its VT-d unit, in words. */
export function explainVtd(guest: Guest, header: TraceHeader, limit: number): string[] {
  const gsts = guest.register(PAGE.GSTS.at, 4);
  const contexts = contextLines(guest, header, limit);
  return [
    'Registers (those that are not zero)',
    ...registerLines(guest, PAGE, 0, Math.min(header.mmio.size, 0x230)),
    '',
    'Requesters',
    ...(contexts.length === 0 ? ['  no present context entry'] : contexts),
    ...(bits(gsts, 31, 1) === 0 ? ['  (translation is off: nothing is looked up)'] : []),
    '',
    'Interrupt remapping',
    ...remapLines(guest),
  ];
}
