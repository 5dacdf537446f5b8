import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import type { Random } from '../../oracle/random.ts';
import type { Step } from '../target.ts';
import { anyAccess, type GuestSteps, LARGE_QUEUE, type Places, selfSimilar, store, stores } from './guest.ts';

const STREAMS = 0x1_0000;
const CONTEXTS = 0x1_8000;
const COMMANDS = 0x2000;
const TABLES = 0x2_0000;

/** Opcodes: configuration, TLBs, ATC, page responses, stalls, sync. */
const OPCODES = [3, 3, 4, 5, 6, 0x10, 0x11, 0x12, 0x13, 0x28, 0x2a, 0x30, 0x40, 0x41, 0x44, 0x45, 0x46, 0x46];

/** A guest of a vSMMUv3. */
export class Smmuv3GuestSteps implements GuestSteps {
  readonly #r: Random;
  readonly #p: Places;
  #prod = 0;

  constructor(rnd: Random, places: Places) {
    this.#r = rnd;
    this.#p = places;
  }

  fill(put: (gpa: number, lo: number, hi: number) => void): void {
    const { ram, bytes, rids } = this.#p;
    const now = (steps: readonly Step[]) => {
      for (const s of steps) put(Number(s[1]), Number(s[3]), Number(s[4]));
    };
    for (let at = TABLES; at < bytes; at += 8) now([this.#descriptor(ram + at)]);
    for (const [n, rid] of rids.entries()) now(this.#stream(rid, n, this.#r.pick([4, 5, 5, 6, 7])));
  }

  #page(): number {
    return this.#p.ram + (this.#r.below(this.#p.bytes) & ~0xfff);
  }

  #descriptor(at: number): Step {
    const r = this.#r;
    const to = r.chance(97) ? this.#page() : r.next();
    return store(at, to | (r.next() & 0x8c0) | 0x440 | (r.chance(95) ? 3 : r.below(4)), r.chance(3) ? r.next() : 0);
  }

  #stream(rid: number, n: number, config: number): Step[] {
    const r = this.#r;
    const { ram } = this.#p;
    const ste = ram + STREAMS + 64 * rid;
    const cd = ram + CONTEXTS + 64 * n;
    const odd = (percent: number) => (r.chance(percent) ? 1 << r.below(32) : 0);
    const s2 = (24 | (1 << 6) | (4 << 16) | (1 << 19) | (1 << 26)) ^ odd(10);
    return [
      store(ste, 1 | (config << 1) | cd, 0),
      // EATS 1.
      store(ste + 8, odd(10), (r.chance(60) ? 1 << 28 : 0) ^ odd(5)),
      store(ste + 16, r.below(4), s2),
      store(ste + 24, ram + 0x4_0000 + (r.below(8) << 12), 0),
      store(cd, (25 | (1 << 30) | (1 << 31)) ^ odd(10), 4 | (0x72 << 8) | (r.below(8) << 16)),
      store(cd + 8, this.#page(), 0),
    ];
  }

  #register(at: number, size: number, lo: number, hi = 0): Step {
    return ['w', this.#p.iommu + at, size, lo | 0, hi | 0];
  }

  enable(): Step[] {
    const r = this.#r;
    const { ram } = this.#p;
    this.#prod = 0;
    return [
      this.#register(PAGE0.CR0.at, 4, 0),
      this.#register(PAGE0.STRTAB_BASE.at, 8, ram + STREAMS),
      this.#register(PAGE0.STRTAB_BASE_CFG.at, 4, r.chance(90) ? 9 : 0x1_0000 | (6 << 6) | 9),
      this.#register(PAGE0.CMDQ_BASE.at, 8, ram + COMMANDS + 6),
      this.#register(PAGE0.EVENTQ_BASE.at, 8, ram + 0x4000 + r.below(7)),
      this.#register(PAGE0.PRIQ_BASE.at, 8, ram + 0x6000 + r.below(7)),
      this.#register(PAGE0.CMDQ_PROD.at, 4, 0),
      this.#register(PAGE0.CMDQ_CONS.at, 4, 0),
      this.#register(PAGE0.IRQ_CTRL.at, 4, 7),
      this.#register(PAGE0.CR0.at, 4, 0xf),
    ];
  }

  table(): Step[] {
    const r = this.#r;
    const { ram, bytes, rids } = this.#p;
    if (r.chance(70)) return [this.#descriptor(ram + (r.below(bytes) & ~7))];
    const n = r.below(rids.length);
    if (r.chance(90)) return this.#stream(rids[n]!, n, r.pick([0, 4, 5, 5, 6, 7]));
    return [store(ram + 8 * r.below(0x4000), r.next(), r.next())];
  }

  #queue(lo: number, hi: number, lo1: number, hi1: number): Step[] {
    const at = this.#p.ram + COMMANDS + (this.#prod & 63) * 16;
    this.#prod = (this.#prod + 1) & 127;
    return [store(at, lo, hi), store(at + 8, lo1, hi1)];
  }

  command(): Step[] {
    const r = this.#r;
    const op = r.chance(92) ? r.pick(OPCODES) : r.below(256);
    const steps: Step[] = [];
    for (let n = r.chance(20) ? r.below(8) : 0; n >= 0; n--) {
      steps.push(
        ...this.#queue(
          op | (r.chance(20) ? r.next() & ~0xff : 0),
          r.chance(80) ? r.pick(this.#p.rids) : r.next(),
          r.chance(50) ? r.next() : this.#page(),
          r.chance(50) ? 0 : r.next(),
        ),
      );
    }
    steps.push(this.#register(PAGE0.CMDQ_PROD.at, 4, r.chance(98) ? this.#prod : r.next()));
    steps.push(['r', this.#p.iommu + PAGE0.CMDQ_CONS.at, 4]);
    // Acknowledges errors by toggling; a queue that stopped is started over.
    if (r.chance(15)) steps.push(['ack'], ...(r.chance(50) ? this.enable() : []));
    return steps;
  }

  flood(): Step[] {
    const r = this.#r;
    const { ram, rids, iommu } = this.#p;
    const at = ram + LARGE_QUEUE;
    const log2 = r.pick([10, 16]);
    const count = (1 << log2) - 1;
    const op = r.pick(OPCODES);
    const tables = ram + 0x4_0000 + (r.below(8) << 12);
    const elsewhere = [0x0809_0000, 0x1000_0000, 0x2000_0000, iommu];
    const similar = selfSimilar(r, (n) => tables + 0x1000 * n, 0x4c3, elsewhere);
    const address = (r.next() & ~0xfff) | r.pick([0, 9, 20, 31, 52]);
    return [
      ...similar,
      this.#register(PAGE0.CR0.at, 4, 5),
      this.#register(PAGE0.CMDQ_BASE.at, 8, at | log2),
      this.#register(PAGE0.CMDQ_PROD.at, 4, 0),
      this.#register(PAGE0.CMDQ_CONS.at, 4, 0),
      this.#register(PAGE0.CR0.at, 4, 0xd),
      // Operation, SSV, NUM and SCALE; StreamID, or ASID and VMID.
      stores(
        at,
        count,
        16,
        op | (r.below(2) << 11) | (r.below(32) << 12) | (r.below(32) << 20),
        r.pick([...rids, r.below(8)]),
      ),
      stores(at + 8, count, 16, address, 0, r.pick([0, 0x1000, 0x20_0000]), r.pick([1, 7, 512])),
      this.#register(PAGE0.CMDQ_PROD.at, 4, count),
      [
        'sweep',
        r.below(2),
        -1,
        r.next() & ~0xfff,
        r.pick([0, 1, 0x7f]),
        r.pick([0x1000, 0x20_0000]),
        r.pick([64, 2000]),
      ],
      ['r', iommu + PAGE0.CMDQ_CONS.at, 4],
      ...(r.chance(70) ? this.enable() : []),
    ];
  }

  completion(address: number): Step[] {
    const r = this.#r;
    // CMD_SYNC with an MSI, or the event queue itself at the address.
    const sync = this.#queue(0x46 | (1 << 12), r.next(), address, 0);
    const doorbell = this.#register(PAGE0.CMDQ_PROD.at, 4, this.#prod);
    if (r.chance(70)) return [...sync, doorbell];
    const queue = r.pick([PAGE0.EVENTQ_BASE.at, PAGE0.PRIQ_BASE.at, PAGE0.CMDQ_BASE.at]);
    return [this.#register(queue, 8, (address & ~31) | r.below(6)), doorbell];
  }

  register(): Step[] {
    const r = this.#r;
    const page = r.chance(10) ? 0x1_0000 : 0;
    return [anyAccess(r, this.#p.iommu + page, 0x100, 0x1_0000, () => (r.chance(50) ? this.#page() : r.next()))];
  }
}
