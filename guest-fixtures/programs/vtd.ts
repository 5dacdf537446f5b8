import type { MmioDevice } from '../../src/ports/mmio.ts';
import { type GuestMemory, type GuestPageRequest, type GuestProgram, Registers } from './program.ts';

// biome-ignore format: table
const R = {
  GCMD: 0x18, GSTS: 0x1c, RTADDR: 0x20, FSTS: 0x34, IQH: 0x80, IQT: 0x88, IQA: 0x90, PQH: 0xc0, PQT: 0xc8, PQA: 0xd0,
  PRS: 0xdc, CAP_HI: 0x0c,
} as const;
const GCMD = { TE: 0x8000_0000, SRTP: 0x4000_0000, QIE: 0x0400_0000 } as const;
const QUEUE_LOG2 = 8;
const REQUEST_BYTES = 32 << 7;
/** Where the fault recording registers are (CAP.FRO), and how many (CAP.NFR) is asked of the unit. */
const FRCD = 0x220;

interface Space {
  readonly root: number;
  readonly did: number;
}

/** A VT-d guest in scalable mode: PASID tables, first stage with 4-level tables, queued invalidation, page requests. */
export class VtdProgram implements GuestProgram {
  readonly #m: GuestMemory;
  readonly #r: Registers;
  readonly #roots: number;
  readonly #queue: number;
  readonly #requests: number;
  readonly #status: number;
  readonly #directories = new Map<number, number>();
  readonly #contexts = new Map<number, number>();
  readonly #spaces = new Map<string, Space>();
  #tail = 0;
  #ticket = 0;
  #did = 1;
  #on = false;

  constructor(device: MmioDevice, memory: GuestMemory) {
    this.#m = memory;
    this.#r = new Registers(device);
    this.#roots = memory.pages(4096);
    this.#queue = memory.pages(32 << QUEUE_LOG2);
    this.#requests = memory.pages(REQUEST_BYTES);
    this.#status = memory.pages(4096);
    const r = this.#r;
    // 256-bit descriptors, as scalable mode wants them: 2^(QS + 7) of them.
    r.write64(R.IQA, BigInt(this.#queue) | 0x800n | BigInt(QUEUE_LOG2 - 7));
    r.write(R.GCMD, GCMD.QIE);
    // Scalable mode: TTM = 1.
    r.write64(R.RTADDR, BigInt(this.#roots) | 0x400n);
    r.write(R.GCMD, GCMD.QIE | GCMD.SRTP);
    r.write64(R.PQA, BigInt(this.#requests));
  }

  #descriptor(lo: bigint, hi: bigint): void {
    const size = 1 << QUEUE_LOG2;
    this.#m.put(this.#queue + this.#tail * 32, lo);
    this.#m.put(this.#queue + this.#tail * 32 + 8, hi);
    this.#tail = (this.#tail + 1) % size;
    if (this.#tail % (size / 2) === 0) this.#r.write(R.IQT, this.#tail << 5);
  }

  function(sid: number, pasids: readonly number[]): void {
    const slot = this.#roots + (sid >>> 8) * 16 + ((sid & 0x80) >>> 4);
    let contexts = this.#m.get(slot);
    if (contexts === 0n) {
      contexts = BigInt(this.#m.pages(4096)) | 1n;
      this.#m.put(slot, contexts);
    }
    // 2^20 PASIDs: PDTS = 7 (16384 directory entries of 64 PASIDs).
    const directory = this.#m.pages(8 << 14);
    this.#directories.set(sid, directory);
    for (const pasid of pasids) this.#context(sid, pasid);
    const at = Number(contexts & ~0xfffn) + (sid & 0x7f) * 32;
    // DTE, PASIDE, PRE; RID_PASID = 0.
    this.#m.put(at, BigInt(directory) | (7n << 9n) | 0x1dn);
    this.#contexts.set(sid, at);
    this.#descriptor(0x11n, 0n);
    this.#descriptor(0x37n, 0n);
    this.#descriptor(0x12n, 0n);
    this.sync();
    if (this.#on) return;
    this.#on = true;
    this.#r.write(R.GCMD, (GCMD.QIE | GCMD.TE) >>> 0);
  }

  share(sid: number, like: number): void {
    const from = this.#contexts.get(like)!;
    // Functions of one bus half share a context table.
    const to = from + ((sid & 0x7f) - (like & 0x7f)) * 32;
    for (const at of [24, 16, 8, 0]) this.#m.put(to + at, this.#m.get(from + at));
    this.#contexts.set(sid, to);
    this.#descriptor(0x11n, 0n);
    this.#descriptor(0x37n, 0n);
    this.#descriptor(0x12n, 0n);
    this.sync();
  }

  #context(sid: number, pasid: number): void {
    const index = Math.max(0, pasid);
    const slot = this.#directories.get(sid)! + (index >>> 6) * 8;
    let table = this.#m.get(slot);
    if (table === 0n) {
      table = BigInt(this.#m.pages(4096)) | 1n;
      this.#m.put(slot, table);
    }
    const at = Number(table & ~0xfffn) + (index & 63) * 64;
    const root = this.#m.pages(4096);
    const did = this.#did++;
    this.#spaces.set(`${sid}/${index}`, { root, did });
    this.#m.put(at + 8, BigInt(did));
    // First stage: FSPTPTR, SRE, WPE.
    this.#m.put(at + 16, BigInt(root) | 0x11n);
    this.#m.put(at, (1n << 6n) | 1n);
  }

  #leaf(sid: number, pasid: number, va: number): number {
    let table = this.#spaces.get(`${sid}/${Math.max(0, pasid)}`)!.root;
    for (const shift of [39, 30, 21]) {
      const at = table + (Math.floor(va / 2 ** shift) % 512) * 8;
      let next = this.#m.get(at);
      if ((next & 1n) === 0n) {
        next = BigInt(this.#m.pages(4096)) | 0x27n;
        this.#m.put(at, next);
      }
      table = Number(next & 0xf_ffff_ffff_f000n);
    }
    return table + (Math.floor(va / 4096) % 512) * 8;
  }

  map(sid: number, pasid: number, va: number, pa: number, writable = true): void {
    this.#m.put(this.#leaf(sid, pasid, va), BigInt(pa) | 0x25n | (writable ? 0x42n : 0n));
  }

  unmap(sid: number, pasid: number, va: number): void {
    this.#m.put(this.#leaf(sid, pasid, va), 0n);
  }

  invalidate(sid: number, pasid: number, va: number, device = true): void {
    const index = Math.max(0, pasid);
    const { did } = this.#spaces.get(`${sid}/${index}`)!;
    const page = BigInt(va - (va % 4096));
    this.#descriptor(0x36n | (BigInt(did) << 16n) | (BigInt(index) << 32n), page);
    if (!device) return;
    this.#wait(0x40n);
    if (pasid < 0) this.#descriptor(0x3n | (BigInt(sid) << 32n), page);
    else this.#descriptor(0x8n | (BigInt(sid) << 16n) | (BigInt(pasid) << 32n), page);
  }

  /** A wait descriptor that stores the next ticket. @param flags FN (0x40): later descriptors wait for earlier ones. */
  #wait(flags: bigint): void {
    this.#ticket++;
    this.#descriptor(0x25n | flags | (BigInt(this.#ticket) << 32n), BigInt(this.#status));
  }

  sync(): boolean {
    this.#wait(0n);
    this.#r.write(R.IQT, this.#tail << 5);
    return this.synced();
  }

  synced(): boolean {
    return Number(this.#m.get(this.#status) & 0xffff_ffffn) === this.#ticket;
  }

  requests(): GuestPageRequest[] {
    const out: GuestPageRequest[] = [];
    const tail = this.#r.read(R.PQT);
    let head = this.#r.read(R.PQH);
    while (head !== tail) {
      const w0 = this.#m.get(this.#requests + head);
      const w1 = this.#m.get(this.#requests + head + 8);
      out.push({
        sid: Number((w0 >> 16n) & 0xffffn),
        pasid: (w0 & 0x100n) === 0n ? -1 : Number((w0 >> 32n) & 0xf_ffffn),
        address: Number(w1 & ~0xfffn),
        group: Number((w1 >> 3n) & 0x1ffn),
        write: (w1 & 2n) !== 0n,
        last: (w1 & 4n) !== 0n,
      });
      head = (head + 32) % REQUEST_BYTES;
    }
    this.#r.write(R.PQH, head);
    // PPR and PRO are cleared by writing one.
    this.#r.write(R.PRS, 3);
    return out;
  }

  respond(q: GuestPageRequest, granted: boolean): void {
    const pasid = q.pasid < 0 ? 0n : 0x10n | (BigInt(q.pasid) << 32n);
    this.#descriptor(0x9n | pasid | ((granted ? 0n : 1n) << 12n) | (BigInt(q.sid) << 16n), BigInt(q.group) << 3n);
    this.sync();
  }

  faults(): number[] {
    const out: number[] = [];
    const records = ((this.#r.read(R.CAP_HI) >>> 8) & 0xff) + 1;
    for (let n = 0; n < records; n++) {
      const at = FRCD + n * 16 + 12;
      const word = this.#r.read(at);
      if (word >>> 31 === 0) continue;
      out.push(word & 0xff);
      this.#r.write(at, 0x8000_0000);
    }
    this.#r.write(R.FSTS, 1);
    return out;
  }
}
