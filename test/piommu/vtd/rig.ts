import { AddressSpace, ramBacking } from '../../../src/lib/memory/address-space.ts';
import { PhysicalVtd } from '../../../src/piommu/vtd/device.ts';
import type { PhysicalVtdOptions } from '../../../src/piommu/vtd/options.ts';
import { AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import type { HwEvents } from '../../../src/ports/hw.ts';
import { frcd } from '../../../src/spec/vtd/faults.ts';
import { GCMD, PAGE } from '../../../src/spec/vtd/registers.ts';

/** Everything a unit can have: 39/48/57 bits, all page sizes, scalable, both stages, nested, A/D, ATS, PRI, PASID 20 bits. */
export const CAP_ALL =
  0x9180_0000_0000_0000n | (18n << 48n) | (1n << 39n) | (3n << 34n) | (47n << 16n) | (0xen << 8n) | 6n;
export const ECAP_ALL = [1, 2, 6, 7, 26, 29, 31, 33, 34, 40, 42, 43, 45, 46, 47, 48].reduce(
  (e, bit) => e | (1n << BigInt(bit)),
  19n << 35n,
);

export const ROOT = 0x10_0000;
const CONTEXTS = 0x10_1000;
const DIRECTORY = 0x10_3000;
const PASIDS = 0x10_4000;
const FREE = 0x11_0000;
const TOP = 0x18_0000;
export const words = (q: bigint): [number, number] => [
  Number(BigInt.asIntN(32, q)),
  Number(BigInt.asIntN(32, q >> 32n)),
];

const QIE = BigInt(GCMD.QIE);

/** What the host kernel heard. */
export class Heard implements HwEvents {
  readonly faults: Int32Array[] = [];
  readonly pageRequests: Int32Array[] = [];
  readonly completions: [token: number, error: number, rid: number][] = [];
  onStreamMiss: ((rid: number, pasid: number) => boolean) | null = null;
  onStageTwoMiss: ((ipa: number, access: number) => boolean) | null = null;
  streamMisses = 0;
  streamMiss(rid: number, pasid: number): boolean {
    this.streamMisses++;
    return this.onStreamMiss?.(rid, pasid) ?? false;
  }
  stageTwoMiss(_rid: number, _pasid: number, ipa: number, access: number): boolean {
    return this.onStageTwoMiss?.(ipa, access) ?? false;
  }
  fault(record: Int32Array): void {
    this.faults.push(record);
  }
  pageRequest(record: Int32Array): void {
    this.pageRequests.push(record);
  }
  completed(token: number, error: number, rid: number): void {
    this.completions.push([token, error, rid]);
  }
}

/** A unit with memory, and tables written the plain way. The requester under test is 0x10 (00:02.0). */
export class Rig {
  readonly memory = new AddressSpace();
  readonly heard = new Heard();
  readonly hw: PhysicalVtd;
  #next = FREE;

  constructor(options: Partial<PhysicalVtdOptions> = {}) {
    this.memory.addRam(ROOT, TOP - ROOT, ramBacking(TOP - ROOT));
    const caches = { iotlb: 1024, walks: 64, contexts: 64, pasids: 64 };
    const base = { memory: this.memory, cap: CAP_ALL, ecap: ECAP_ALL, events: this.heard, caches };
    this.hw = new PhysicalVtd({ ...base, ...options });
    this.hw.writeRegister(PAGE.FECTL.at, 0n);
    this.hw.writeRegister(PAGE.PECTL.at, 0n);
    this.hw.writeRegister(PAGE.GCMD.at, QIE);
  }

  /** A zeroed page. */
  page(): number {
    this.#next += 4096;
    return this.#next - 4096;
  }
  set(address: number, q: bigint): void {
    this.memory.store64(address, ...words(q));
  }
  get(address: number): bigint {
    this.memory.load64(address);
    return (BigInt(this.memory.hi >>> 0) << 32n) | BigInt(this.memory.lo >>> 0);
  }

  /** Points the unit at its tables. @param mode TTM. */
  enable(mode: number): this {
    return this.enableAt(ROOT, mode);
  }
  enableAt(root: number, mode: number): this {
    this.hw.writeRegister(0x20, BigInt(root) | (BigInt(mode) << 10n));
    this.hw.writeRegister(0x18, 0x4000_0000n | QIE);
    this.hw.writeRegister(0x18, 0x8000_0000n | QIE);
    return this;
  }

  rootEntry(bus = 0): number {
    return ROOT + bus * 16;
  }
  contextEntry(rid = 0x10): number {
    return CONTEXTS + (rid & 0xff) * 16;
  }
  smContextEntry(rid = 0x10): number {
    return CONTEXTS + (rid & 0xff) * 32;
  }
  directoryEntry(pasid = 0): number {
    return DIRECTORY + (pasid >>> 6) * 8;
  }
  pasidEntry(pasid = 0): number {
    return PASIDS + pasid * 64;
  }

  legacy(rid: number, low: bigint, high: bigint): this {
    this.set(this.rootEntry(rid >>> 8), BigInt(CONTEXTS) | 1n);
    this.set(this.contextEntry(rid), low);
    this.set(this.contextEntry(rid) + 8, high);
    return this;
  }

  /** Scalable-mode tables down to the PASID table: DTE, PASIDE, PRE set, 2^13 PASIDs in reach. PASID < 128. */
  scalable(rid = 0x10, flags = 0x1cn): this {
    this.set(this.rootEntry(rid >>> 8), BigInt(CONTEXTS) | 1n);
    this.set(this.rootEntry(rid >>> 8) + 8, BigInt(CONTEXTS + 0x1000) | 1n);
    this.set(this.smContextEntry(rid), BigInt(DIRECTORY) | flags | 1n);
    this.set(this.directoryEntry(0), BigInt(PASIDS) | 1n);
    this.set(this.directoryEntry(64), BigInt(PASIDS + 0x1000) | 1n);
    return this;
  }

  /** Writes the first qwords of a PASID entry. */
  pasid(pasid: number, ...qwords: bigint[]): this {
    for (let i = 0; i < qwords.length; i++) this.set(this.pasidEntry(pasid) + 8 * i, qwords[i]!);
    return this;
  }
  /** Second stage, four levels. */
  second(pasid: number, did: number, table: number, extra = 0n): this {
    return this.pasid(pasid, BigInt(table) | (2n << 6n) | (2n << 2n) | 1n | extra, BigInt(did));
  }
  first(pasid: number, did: number, table: number, extra = 0n): this {
    return this.pasid(pasid, (1n << 6n) | 1n, BigInt(did), BigInt(table) | extra);
  }
  nested(pasid: number, did: number, first: number, second: number): this {
    return this.pasid(pasid, BigInt(second) | (3n << 6n) | (2n << 2n) | 1n, BigInt(did), BigInt(first));
  }

  /** Maps a page in a four-level table; missing tables are made. @param flags of the leaf; upper entries get `upper`. */
  map(table: number, iova: bigint, out: bigint, flags: bigint, upper = 7n, leafLevel = 1): number {
    let t = table;
    for (let level = 4; level > leafLevel; level--) {
      const at = t + Number((iova >> BigInt(3 + 9 * level)) & 511n) * 8;
      if (this.get(at) === 0n) this.set(at, BigInt(this.page()) | upper);
      t = Number(this.get(at) & 0xf_ffff_ffff_f000n);
    }
    const at = t + Number((iova >> BigInt(3 + 9 * leafLevel)) & 511n) * 8;
    this.set(at, out | flags);
    return at;
  }

  /** @returns the output address; or minus the fault reason; -1000 when no new record was made. */
  dma(iova: bigint, access = 1, rid = 0x10, pasid: number = NO_PASID, at: number = AT.UNTRANSLATED): number {
    const before = this.heard.faults.length;
    const r = this.hw.translate(rid, pasid, ...words(iova), access, at);
    if (r === DMA.OK) return this.hw.out;
    if (r !== DMA.ABORT) return -2000 - r;
    return this.heard.faults.length === before ? -1000 : -frcd.reason(this.heard.faults.at(-1)![3]!);
  }

  /** Submits descriptors given as qwords (low, high); wide in scalable mode. */
  inv(...descriptors: [bigint, bigint][]): { done: number; error: number; pending: number } {
    const step = (this.hw.readRegister(0x20) >> 10n) & 3n ? 8 : 4;
    const buffer = new Int32Array(descriptors.length * step);
    for (const [i, [low, high]] of descriptors.entries()) buffer.set([...words(low), ...words(high)], i * step);
    this.hw.submit(buffer, 0, descriptors.length);
    return { done: this.hw.done, error: this.hw.error, pending: this.hw.pending };
  }
}

const d = (did: number): bigint => BigInt(did) << 16n;
const p = (pasid: number): bigint => BigInt(pasid) << 32n;
export const INVALIDATE = {
  contextGlobal: [0x11n, 0n],
  contextDomain: (did: number) => [0x21n | d(did), 0n],
  contextDevice: (sid: number, fm = 0) => [0x31n | (BigInt(sid) << 32n) | (BigInt(fm) << 48n), 0n],
  iotlbGlobal: [0x12n, 0n],
  iotlbDomain: (did: number) => [0x22n | d(did), 0n],
  iotlbPage: (did: number, address: bigint, am = 0) => [0x32n | d(did), address | BigInt(am)],
  pasidIotlb: (did: number, pasid: number) => [0x26n | d(did) | p(pasid), 0n],
  pasidIotlbPage: (did: number, pasid: number, address: bigint, am = 0) => [
    0x36n | d(did) | p(pasid),
    address | BigInt(am),
  ],
  pasidCacheDomain: (did: number) => [0x07n | d(did), 0n],
  pasidCachePasid: (did: number, pasid: number) => [0x17n | d(did) | p(pasid), 0n],
  pasidCacheGlobal: [0x37n, 0n],
  device: (sid: number, address: bigint) => [0x03n | (BigInt(sid) << 32n), address],
  pasidDevice: (sid: number, pasid: number, address: bigint) => [0x08n | d(sid) | p(pasid), address],
} satisfies Record<string, [bigint, bigint] | ((...a: never[]) => [bigint, bigint])>;
