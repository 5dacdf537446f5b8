import { type Driver, Guest, type GuestActs } from './driver.ts';

export interface VtdOptions {
  /** Scalable mode with a first stage; legacy mode otherwise. */
  readonly scalable?: boolean;
  readonly cachingMode?: boolean;
  readonly ats?: boolean;
  /** Page requests, and requests with PASID. */
  readonly pri?: boolean;
}

export const VTD = {
  CAP: 0x8,
  ECAP: 0x10,
  GCMD: 0x18,
  GSTS: 0x1c,
  RTADDR: 0x20,
  CCMD: 0x28,
  FSTS: 0x34,
  FECTL: 0x38,
  FEDATA: 0x3c,
  FEADDR: 0x40,
  IQT: 0x88,
  IQA: 0x90,
  IRTA: 0xb8,
  PQH: 0xc0,
  PQA: 0xd0,
  PRS: 0xdc,
  IOTLB: 0xf8,
} as const;
export const GCMD = {
  TE: 0x8000_0000,
  SRTP: 0x4000_0000,
  QIE: 0x0400_0000,
  IRE: 0x0200_0000,
  SIRTP: 0x0100_0000,
} as const;

/** A driver of a VT-d unit: legacy second stage, or scalable first stage; four levels. */
export class VtdDriver<G extends GuestActs = Guest> implements Driver {
  readonly iommu = 'vtd';
  readonly guest: G;
  readonly sid = 8;
  readonly roots: number;
  readonly contexts: number;
  readonly directory: number;
  readonly pasids: number;
  readonly queue: number;
  readonly requests: number;
  readonly root: number;
  readonly interrupts: number;
  readonly #status: number;
  readonly did = 5;
  /** Bytes of a descriptor. */
  readonly bytes: number;
  tail = 0;
  ticket = 0;
  /** GCMD's levels. */
  levels = 0;
  readonly o: VtdOptions;

  /** @param guest who does it: by default one that is only told of. */
  constructor(o: VtdOptions = {}, guest: GuestActs = new Guest()) {
    this.guest = guest as G;
    this.o = o;
    const g = this.guest;
    this.bytes = o.scalable === true ? 32 : 16;
    [this.roots, this.contexts, this.directory, this.pasids] = [g.alloc(), g.alloc(), g.alloc(), g.alloc()];
    [this.queue, this.requests, this.root, this.interrupts] = [g.alloc(), g.alloc(), g.alloc(), g.alloc()];
    this.#status = g.alloc();
    // ESRTPS, MAMV 18, PSI, two-level SLLPS, MGAW 48, SAGAW 48, ND 6; CM.
    g.r(VTD.CAP, 0x80d2_008c_222f_0406n | (o.cachingMode === true ? 0x80n : 0n), 8);
    g.r(VTD.ECAP, o.scalable === true ? 0x8d3a_20f0_0f4en : 0xf00f4en, 8);
    for (const page of [this.queue, this.roots, this.contexts]) g.st(page, 0);
    this.setup();
  }

  setup(): void {
    const g = this.guest;
    const scalable = this.o.scalable === true;
    g.w(VTD.IQT, 0).w(VTD.IQA, BigInt(this.queue) | (scalable ? 0x800n : 0n), 8);
    this.control(GCMD.QIE);
    g.w(VTD.RTADDR, BigInt(this.roots) | (scalable ? 0x400n : 0n), 8);
    this.control(GCMD.SRTP);
    this.descriptor(0x11n, 0n);
    this.descriptor(0x12n, 0n);
    this.submit();
    this.attach();
    this.control(GCMD.TE);
  }

  /** Sets one bit of GCMD, or a one-shot, and awaits it. */
  control(bit: number): void {
    const oneShot = bit === GCMD.SRTP || bit === GCMD.SIRTP;
    if (!oneShot) this.levels += bit;
    this.guest.w(VTD.GCMD, oneShot ? this.levels + bit : this.levels);
    this.guest.r(
      VTD.GSTS,
      this.levels + (this.levels >= GCMD.TE || oneShot ? GCMD.SRTP : 0) + (bit === GCMD.SIRTP ? bit : 0),
    );
  }

  attach(): void {
    const g = this.guest;
    const ats = this.o.ats === true;
    if (this.o.scalable !== true) {
      g.st(this.roots, BigInt(this.contexts) | 1n);
      this.context(this.did, this.root);
    } else {
      this.pasid(0, this.did, this.root);
      g.st(this.directory, BigInt(this.pasids) | 1n);
      g.st(
        this.contexts + 32 * this.sid,
        BigInt(this.directory) | 0x9n | (ats ? 4n : 0n) | (this.o.pri === true ? 0x10n : 0n),
      );
      g.st(this.roots, BigInt(this.contexts) | 1n);
    }
    this.contextCache();
    if (this.o.scalable === true) this.descriptor(7n | (1n << 4n) | (BigInt(this.did) << 16n), 0n);
    this.invalidateAll();
    this.submit();
  }

  /** Invalidates the context cache of the function; in caching mode of what was not present (domain 0) too. */
  contextCache(did = this.o.cachingMode === true ? 0 : this.did): void {
    this.descriptor(1n | (3n << 4n) | (BigInt(did) << 16n) | (BigInt(this.sid) << 32n), 0n);
  }

  /** Legacy context entry: the half with P last. */
  context(did: number, root: number, sid = this.sid): void {
    const at = this.contexts + 16 * sid;
    this.guest.st(at + 8, 2n | (BigInt(did) << 8n));
    this.guest.st(at, BigInt(root) | (this.o.ats === true ? 4n : 0n) | 1n);
  }

  /** First-stage PASID entry: the word with P last. */
  pasid(pasid: number, did: number, root: number): void {
    const at = this.pasids + 64 * pasid;
    this.guest
      .st(at + 16, root)
      .st(at + 8, did)
      .st(at, 0x41);
  }

  descriptor(lo: bigint, hi: bigint): void {
    const at = this.queue + this.tail * this.bytes;
    this.guest.st(at, lo).st(at + 8, hi);
    if (this.bytes === 32) this.guest.st(at + 16, 0).st(at + 24, 0);
    this.tail = (this.tail + 1) % (4096 / this.bytes);
  }

  fence(): void {
    this.ticket++;
    this.descriptor(0x25n | (BigInt(this.ticket) << 32n), BigInt(this.#status));
  }

  submit(awaited = true): void {
    if (awaited) this.fence();
    this.guest.w(VTD.IQT, this.tail * this.bytes);
    if (awaited) this.guest.written(this.#status, [this.ticket]);
  }

  #slot(va: number, levels: number): number {
    let table = this.root;
    for (const shift of [39, 30, 21].slice(0, levels)) {
      const at = table + (Math.floor(va / 2 ** shift) % 512) * 8;
      let next = this.guest.get(at);
      if ((next & 3n) === 0n) {
        next = BigInt(this.guest.alloc()) | (this.o.scalable === true ? 7n : 3n);
        this.guest.st(Number(next & ~0xfffn), 0);
        this.guest.st(at, next);
      }
      table = Number(next & 0xf_ffff_ffff_f000n);
    }
    return table + (Math.floor(va / 2 ** [39, 30, 21, 12][levels]!) % 512) * 8;
  }

  entry(va: number, value: bigint, levels = 3): void {
    this.guest.st(this.#slot(va, levels), value);
  }

  map(va: number, pa: number, writable = true): void {
    const flags = this.o.scalable === true ? (writable ? 7n : 5n) : writable ? 3n : 1n;
    this.entry(va, BigInt(pa) | flags);
  }

  unmap(va: number): void {
    this.entry(va, 0n);
  }

  unlink(va: number): number {
    const at = this.#slot(va, 2);
    const table = Number(this.guest.get(at) & 0xf_ffff_ffff_f000n);
    this.guest.st(at, 0);
    return table;
  }

  link(va: number, table: number): void {
    this.guest.st(this.#slot(va, 2), BigInt(table) | 7n);
  }

  invalidate(va: number, pages = 1, leaf = true): void {
    const am = BigInt(Math.log2(pages));
    const hi = BigInt(va) | am | (leaf ? 0x40n : 0n);
    const type = this.o.scalable === true ? 6n : 2n;
    this.descriptor(type | (3n << 4n) | (BigInt(this.did) << 16n), hi);
  }

  invalidateAll(): void {
    const type = this.o.scalable === true ? 6n : 2n;
    this.descriptor(type | (2n << 4n) | (BigInt(this.did) << 16n), 0n);
  }

  invalidateDevice(va: number): void {
    this.descriptor(3n | (BigInt(this.sid) << 32n), BigInt(va));
  }
}
