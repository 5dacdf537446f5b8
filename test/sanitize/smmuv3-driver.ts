import { type Driver, Guest, type GuestActs } from './driver.ts';

export interface SmmuOptions {
  /** IDR3.BBML. */
  readonly bbml?: number;
  readonly ats?: boolean;
  /** log2 of CDs. */
  readonly ssid?: number;
  readonly stage2?: boolean;
}

export const SMMU = {
  CR0: 0x20,
  CR0ACK: 0x24,
  GBPA: 0x44,
  IRQ_CTRL: 0x50,
  IRQ_CTRLACK: 0x54,
  GERROR: 0x60,
  GERRORN: 0x64,
  STRTAB_BASE: 0x80,
  STRTAB_BASE_CFG: 0x88,
  CMDQ_BASE: 0x90,
  PROD: 0x98,
  CONS: 0x9c,
  EVENTQ_BASE: 0xa0,
  PRIQ_BASE: 0xc0,
  EVENTQ_PROD: 0x1_00a8,
  EVENTQ_CONS: 0x1_00ac,
  PRIQ_CONS: 0x1_00cc,
} as const;
const LOG2 = 6;

/** A driver of an SMMUv3: linear tables, 39-bit stage 1 (or stage 2) with 4 KiB pages. */
export class SmmuDriver<G extends GuestActs = Guest> implements Driver {
  readonly iommu = 'smmuv3';
  readonly guest: G;
  readonly sid = 8;
  readonly streams: number;
  readonly commands: number;
  readonly events: number;
  readonly requests: number;
  readonly cds: number;
  readonly root: number;
  readonly asid = 5;
  readonly vmid = 3;
  prod = 0;
  readonly #o: SmmuOptions;

  /** @param guest who does it: by default one that is only told of. */
  constructor(o: SmmuOptions = {}, guest: GuestActs = new Guest()) {
    this.guest = guest as G;
    this.#o = o;
    const g = this.guest;
    this.streams = g.alloc(64 << 5);
    this.commands = g.alloc(16 << LOG2);
    this.events = g.alloc();
    this.requests = g.alloc();
    this.cds = g.alloc();
    this.root = g.alloc();
    g.r(0, 0x0d54_1c1b | (o.stage2 === true ? 1 : 0))
      .r(0xc, 0x404 | ((o.bbml ?? 0) << 11))
      .r(0x14, 0x74);
    g.st(this.streams, 0);
    g.st(this.commands, 0);
    this.setup();
  }

  setup(): void {
    const g = this.guest;
    g.w(SMMU.STRTAB_BASE, this.streams, 8).w(SMMU.STRTAB_BASE_CFG, 5);
    g.w(SMMU.CMDQ_BASE, BigInt(this.commands) + BigInt(LOG2), 8);
    g.w(SMMU.EVENTQ_BASE, BigInt(this.events) + 5n, 8);
    g.w(SMMU.PRIQ_BASE, BigInt(this.requests) + 5n, 8);
    this.control(0x8);
    this.command(0x04n, 31n);
    this.command(0x30n, 0n);
    this.submit();
    this.control(0xf);
    this.attach();
  }

  control(value: number): void {
    this.guest.w(SMMU.CR0, value).r(SMMU.CR0ACK, value);
  }

  /** CD and STE of the function, in the order of a driver; then CFGI_STE. */
  attach(): void {
    if (this.#o.stage2 !== true) this.cd(0, this.root, this.asid);
    this.ste(this.sid);
    this.config(this.sid);
  }

  cd(ssid: number, root: number, asid: number): void {
    const at = this.cds + 64 * ssid;
    this.guest.st(at + 8, root);
    this.guest.st(at, this.cdWord(asid));
  }

  /** T0SZ 25, EPD1, V, IPS 44 bits, AA64, R, A, ASET. */
  cdWord(asid: number): bigint {
    return 25n | (1n << 30n) | (1n << 31n) | (4n << 32n) | (1n << 41n) | (7n << 45n) | (BigInt(asid) << 48n);
  }

  ste(sid: number): void {
    for (const [n, word] of this.steWords().entries()) if (n > 0) this.guest.st(this.streams + 64 * sid + 8 * n, word);
    this.guest.st(this.streams + 64 * sid, this.steWords()[0]!);
  }

  steWords(): readonly bigint[] {
    const ats = this.#o.ats === true ? 1n << 28n : 0n;
    if (this.#o.stage2 === true) {
      // S2VMID, S2T0SZ 25, S2SL0 1, 44 bits, AA64, AFFD, R.
      const w2 = BigInt(this.vmid) | (25n << 32n) | (1n << 38n) | (4n << 48n) | (1n << 51n) | (1n << 58n);
      return [0xdn, ats, w2, BigInt(this.root)];
    }
    const ssid = BigInt(this.#o.ssid ?? 0);
    return [0xbn | BigInt(this.cds) | (ssid << 59n), ats | (ssid > 0n ? 2n : 0n)];
  }

  config(sid: number): void {
    this.command(0x03n | (BigInt(sid) << 32n), 1n);
    this.submit();
  }

  command(w0: bigint, w1: bigint): void {
    const at = this.commands + (this.prod % (1 << LOG2)) * 16;
    this.guest.st(at, w0).st(at + 8, w1);
    this.prod = (this.prod + 1) % (2 << LOG2);
  }

  fence(): void {
    this.command(0x46n, 0n);
  }

  submit(awaited = true): void {
    if (awaited) this.fence();
    this.guest.w(SMMU.PROD, this.prod);
    if (awaited) this.guest.r(SMMU.CONS, this.prod);
  }

  #slot(va: number, levels: number): number {
    let table = this.root;
    for (const shift of [30, 21].slice(0, levels)) {
      const at = table + (Math.floor(va / 2 ** shift) % 512) * 8;
      let next = this.guest.get(at);
      if ((next & 1n) === 0n) {
        next = BigInt(this.guest.alloc()) | 3n;
        this.guest.st(Number(next & ~0xfffn), 0);
        this.guest.st(at, next);
      }
      table = Number(next & 0xffff_ffff_f000n);
    }
    return table + (Math.floor(va / 2 ** [30, 21, 12][levels]!) % 512) * 8;
  }

  /** Stores an entry as it is. @param levels tables above it: 2 for a page, 1 for a block. */
  entry(va: number, value: bigint, levels = 2): void {
    this.guest.st(this.#slot(va, levels), value);
  }

  /** A page or, with `block`, the low bits of a block: AF, not global, for functions without privilege. */
  leaf(pa: number, writable: boolean, block = false): bigint {
    if (this.#o.stage2 === true) return BigInt(pa) | 0x400n | (block ? 1n : 3n) | (writable ? 0xc0n : 0x40n);
    return BigInt(pa) | 0xc40n | (block ? 1n : 3n) | (writable ? 0n : 0x80n);
  }

  map(va: number, pa: number, writable = true): void {
    this.entry(va, this.leaf(pa, writable));
  }

  unmap(va: number): void {
    this.entry(va, 0n);
  }

  unlink(va: number): number {
    const at = this.#slot(va, 1);
    const table = Number(this.guest.get(at) & 0xffff_ffff_f000n);
    this.guest.st(at, 0);
    return table;
  }

  link(va: number, table: number): void {
    this.guest.st(this.#slot(va, 1), BigInt(table) | 3n);
  }

  invalidate(va: number, pages = 1, leaf = true): void {
    const op = this.#o.stage2 === true ? 0x2an : 0x12n;
    const tag = this.#o.stage2 === true ? BigInt(this.vmid) << 32n : BigInt(this.asid) << 48n;
    // (NUM + 1) * 2^SCALE pages, NUM below 32.
    const scale = Math.max(0, Math.ceil(Math.log2(pages / 32)));
    const range = pages === 1 ? 0n : (BigInt(pages / 2 ** scale - 1) << 12n) | (BigInt(scale) << 20n);
    const tg = pages === 1 ? 0n : 1n << 10n;
    this.command(op | tag | range, BigInt(va) | tg | (leaf ? 1n : 0n));
  }

  invalidateAll(): void {
    if (this.#o.stage2 === true) this.command(0x28n | (BigInt(this.vmid) << 32n), 0n);
    else this.command(0x11n | (BigInt(this.asid) << 48n), 0n);
  }

  invalidateDevice(va: number): void {
    this.command(0x40n | (BigInt(this.sid) << 32n), BigInt(va));
  }
}
