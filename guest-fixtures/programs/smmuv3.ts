import type { MmioDevice } from '../../src/ports/mmio.ts';
import { type GuestMemory, type GuestPageRequest, type GuestProgram, Registers } from './program.ts';

/** Registers of page 0, and of page 1 from 0x10000 on. */
// biome-ignore format: table
const R = {
  CR0: 0x20, CR1: 0x28, STRTAB_BASE: 0x80, STRTAB_BASE_CFG: 0x88, CMDQ_BASE: 0x90, CMDQ_PROD: 0x98, CMDQ_CONS: 0x9c,
  EVENTQ_BASE: 0xa0, PRIQ_BASE: 0xc0, EVENTQ_PROD: 0x1_00a8, EVENTQ_CONS: 0x1_00ac, PRIQ_PROD: 0x1_00c8, PRIQ_CONS: 0x1_00cc,
} as const;
const LOG2 = { STREAMS: 10, COMMANDS: 8, EVENTS: 7, REQUESTS: 9 } as const;

export interface Smmuv3ProgramOptions {
  /** SubstreamID bits of each function; 0: none. */
  readonly ssidBits?: number;
  /** Two-level CD tables with leaves of 64 KiB (1024 CDs); linear otherwise. */
  readonly twoLevel?: boolean;
  /** Faults stall (CD.S) instead of aborting. */
  readonly stall?: boolean;
  /** Translated requests are checked (CR0.ATSCHK). */
  readonly check?: boolean;
}

interface Space {
  readonly root: number;
  readonly asid: number;
}

/** An SMMUv3 guest: linear stream table, CDs, stage 1 with 4 KiB pages and 39-bit addresses, one queue of each kind. */
export class Smmuv3Program implements GuestProgram {
  readonly #m: GuestMemory;
  readonly #r: Registers;
  readonly #o: Smmuv3ProgramOptions;
  readonly #streams: number;
  readonly #commands: number;
  readonly #events: number;
  readonly #requests: number;
  readonly #spaces = new Map<string, Space>();
  readonly #cdTables = new Map<number, number>();
  #prod = 0;
  #asid = 1;

  constructor(device: MmioDevice, memory: GuestMemory, options: Smmuv3ProgramOptions = {}) {
    this.#m = memory;
    this.#r = new Registers(device);
    this.#o = options;
    this.#streams = memory.pages(64 << LOG2.STREAMS);
    this.#commands = memory.pages(16 << LOG2.COMMANDS);
    this.#events = memory.pages(32 << LOG2.EVENTS);
    this.#requests = memory.pages(16 << LOG2.REQUESTS);
    const r = this.#r;
    r.write(R.CR1, 0xd75);
    r.write64(R.STRTAB_BASE, BigInt(this.#streams));
    r.write(R.STRTAB_BASE_CFG, LOG2.STREAMS);
    r.write64(R.CMDQ_BASE, BigInt(this.#commands + LOG2.COMMANDS));
    r.write64(R.EVENTQ_BASE, BigInt(this.#events + LOG2.EVENTS));
    r.write64(R.PRIQ_BASE, BigInt(this.#requests + LOG2.REQUESTS));
    r.write(R.CR0, 0xc);
    this.#command(0x04n, 31n);
    this.#command(0x30n, 0n);
    this.sync();
    r.write(R.CR0, options.check === true ? 0x1f : 0xf);
  }

  #command(lo: bigint, hi: bigint): void {
    const size = 1 << LOG2.COMMANDS;
    const at = this.#commands + (this.#prod % size) * 16;
    this.#m.put(at, lo);
    this.#m.put(at + 8, hi);
    this.#prod = (this.#prod + 1) % (2 * size);
    // Half full: let the SMMU catch up, as a driver does.
    if (this.#prod % (size / 2) === 0) this.#r.write(R.CMDQ_PROD, this.#prod);
  }

  function(sid: number, pasids: readonly number[]): void {
    const bits = this.#o.ssidBits ?? 0;
    const twoLevel = this.#o.twoLevel === true && bits > 10;
    const table = this.#m.pages(twoLevel ? 8 << (bits - 10) : 64 << bits);
    this.#cdTables.set(sid, table);
    for (const pasid of pasids) this.#context(sid, pasid);
    const ste = this.#streams + sid * 64;
    // EATS = 1: full ATS. S1DSS = 2: requests without a SubstreamID use substream 0.
    this.#m.put(ste + 8, (1n << 28n) | (bits > 0 ? 2n : 0n));
    const format = twoLevel ? 2n << 4n : 0n;
    this.#m.put(ste, 0xbn | format | BigInt(table) | (BigInt(bits) << 59n));
    this.#command(0x03n | (BigInt(sid) << 32n), 1n);
    this.sync();
  }

  share(sid: number, like: number): void {
    const from = this.#streams + like * 64;
    const to = this.#streams + sid * 64;
    for (const at of [8, 0]) this.#m.put(to + at, this.#m.get(from + at));
    this.#command(0x03n | (BigInt(sid) << 32n), 1n);
    this.sync();
  }

  /** Adds an address space to a function that is there already. */
  #context(sid: number, pasid: number): void {
    const index = Math.max(0, pasid);
    let at = this.#cdTables.get(sid)! + index * 64;
    if (this.#o.twoLevel === true && (this.#o.ssidBits ?? 0) > 10) {
      const l1 = this.#cdTables.get(sid)! + (index >>> 10) * 8;
      let leaf = this.#m.get(l1);
      if ((leaf & 1n) === 0n) {
        leaf = BigInt(this.#m.pages(0x1_0000)) | 1n;
        this.#m.put(l1, leaf);
      }
      at = Number(leaf & ~0xfffn) + (index % 1024) * 64;
    }
    const asid = this.#asid++;
    const root = this.#m.pages(4096);
    this.#spaces.set(`${sid}/${index}`, { root, asid });
    this.#m.put(at + 8, BigInt(root));
    // T0SZ 25, write-back tables, EPD1, V, IPS 48 bits, AA64, R, A, ASET, ASID; S to stall.
    const stall = this.#o.stall === true ? 1n << 44n : 0n;
    const low = 25n | (1n << 8n) | (1n << 10n) | (3n << 12n) | (1n << 30n) | (1n << 31n);
    this.#m.put(at, low | (5n << 32n) | (1n << 41n) | stall | (7n << 45n) | (BigInt(asid) << 48n));
  }

  #leaf(sid: number, pasid: number, va: number): number {
    let table = this.#spaces.get(`${sid}/${Math.max(0, pasid)}`)!.root;
    for (const shift of [30, 21]) {
      const at = table + (Math.floor(va / 2 ** shift) % 512) * 8;
      let next = this.#m.get(at);
      if ((next & 1n) === 0n) {
        next = BigInt(this.#m.pages(4096)) | 3n;
        this.#m.put(at, next);
      }
      table = Number(next & 0xffff_ffff_f000n);
    }
    return table + (Math.floor(va / 4096) % 512) * 8;
  }

  map(sid: number, pasid: number, va: number, pa: number, writable = true): void {
    this.#m.put(this.#leaf(sid, pasid, va), BigInt(pa) | 0xf43n | (writable ? 0n : 0x80n));
  }

  unmap(sid: number, pasid: number, va: number): void {
    this.#m.put(this.#leaf(sid, pasid, va), 0n);
  }

  invalidate(sid: number, pasid: number, va: number, device = true): void {
    const { asid } = this.#spaces.get(`${sid}/${Math.max(0, pasid)}`)!;
    const page = BigInt(va - (va % 4096));
    this.#command(0x12n | (BigInt(asid) << 48n), page | 1n);
    // The device's copy goes after the SMMU's own: else it could be made anew from it.
    if (!device) return;
    this.#command(0x46n, 0n);
    const substream = pasid < 0 ? 0n : (1n << 11n) | (BigInt(pasid) << 12n);
    this.#command(0x40n | substream | (BigInt(sid) << 32n), page);
  }

  sync(): boolean {
    this.#command(0x46n, 0n);
    this.#r.write(R.CMDQ_PROD, this.#prod);
    return this.synced();
  }

  synced(): boolean {
    return (this.#r.read(R.CMDQ_CONS) & 0xf_ffff) === this.#prod;
  }

  requests(): GuestPageRequest[] {
    const out: GuestPageRequest[] = [];
    const prod = this.#r.read(R.PRIQ_PROD);
    let cons = this.#r.read(R.PRIQ_CONS) & 0x7fff_ffff;
    const mask = 2 ** (LOG2.REQUESTS + 1) - 1;
    while (cons !== (prod & mask)) {
      const at = this.#requests + (cons % (1 << LOG2.REQUESTS)) * 16;
      const w0 = this.#m.get(at);
      const w1 = this.#m.get(at + 8);
      out.push({
        sid: Number(w0 & 0xffff_ffffn),
        pasid: w0 >> 63n === 0n ? -1 : Number((w0 >> 32n) & 0xf_ffffn),
        address: Number(w1 & ~0xfffn),
        group: Number(w1 & 0x1ffn),
        write: ((w0 >> 61n) & 1n) !== 0n,
        last: ((w0 >> 62n) & 1n) !== 0n,
      });
      cons = (cons + 1) & mask;
    }
    // Reading with the overflow flag copied acknowledges an overflow.
    this.#r.write(R.PRIQ_CONS, (cons | (prod & 0x8000_0000)) >>> 0);
    return out;
  }

  respond(q: GuestPageRequest, granted: boolean): void {
    const substream = q.pasid < 0 ? 0n : (1n << 11n) | (BigInt(q.pasid) << 12n);
    this.#command(0x41n | substream | (BigInt(q.sid) << 32n), BigInt(q.group) | ((granted ? 2n : 1n) << 12n));
    this.sync();
  }

  /** The records themselves, for stalls: sid, stag, address. */
  events(): { readonly type: number; readonly sid: number; readonly stag: number; readonly address: number }[] {
    const out = [];
    const prod = this.#r.read(R.EVENTQ_PROD) & 0x7fff_ffff;
    let cons = this.#r.read(R.EVENTQ_CONS) & 0x7fff_ffff;
    while (cons !== prod) {
      const at = this.#events + (cons % (1 << LOG2.EVENTS)) * 32;
      const w0 = this.#m.get(at);
      const stag = Number(this.#m.get(at + 8) & 0xffffn);
      out.push({ type: Number(w0 & 0xffn), sid: Number(w0 >> 32n), stag, address: Number(this.#m.get(at + 16)) });
      cons = (cons + 1) % 2 ** (LOG2.EVENTS + 1);
    }
    this.#r.write(R.EVENTQ_CONS, cons);
    return out;
  }

  /** Ends a stall: the access is tried again, or aborted. */
  resume(sid: number, stag: number, retry: boolean): void {
    this.#command(0x44n | ((retry ? 1n : 2n) << 12n) | (BigInt(sid) << 32n), BigInt(stag));
    this.sync();
  }

  faults(): number[] {
    return this.events().map((e) => e.type);
  }
}
