import { expect, test } from 'vitest';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { ACCESS, DMA } from '../../src/ports/dma.ts';
import { FSTS, GCMD, PAGE } from '../../src/spec/vtd/registers.ts';
import { Heard, type ReplayTarget, type TraceHeader } from '../../src/trace/index.ts';
import { Random } from '../../tools/oracle/random.ts';

const RAM = 0x40_0000;
const QUEUE = 0x2000;
const ROOT = 0x1_0000;
const CONTEXTS = 0x1_1000;
const DIRECTORY = 0x1_4000;
const PASIDS = 0x1_5000;
const IRT = 0x1_8000;
const TABLES = 0x2_0000;
const SIDS = [0, 8, 0x10, 0x28, 0x100];

function header(properties: string): TraceHeader {
  return {
    iommu: 'vtd',
    cmdline: `qemu-system-x86_64 -M q35 -device intel-iommu${properties}`,
    guestKernel: '',
    scenario: '',
    commands: null,
    mmio: { base: 0xfed9_0000, size: 0x1000 },
    ram: [{ gpa: 0, size: RAM }],
    devices: SIDS.map((sid) => ({ name: `d${sid}`, sid, bdf: '', driver: null, domainType: null, ats: sid === 0x100 })),
  };
}

/** A guest without a plan: half of what it writes makes sense. */
class Guest {
  readonly #m: ReplayTarget;
  readonly #rnd: Random;
  readonly #scalable: boolean;
  readonly #density: number;
  #tail = 0;

  constructor(machine: ReplayTarget, rnd: Random, scalable: boolean, density: number) {
    this.#m = machine;
    this.#density = density;
    this.#rnd = rnd;
    this.#scalable = scalable;
  }

  #odd(percent: number): number {
    return this.#rnd.chance(percent) ? 1 << this.#rnd.below(32) : 0;
  }

  #table(): number {
    return TABLES + (this.#rnd.below(RAM - TABLES) & ~0xfff);
  }

  #store(gpa: number, lo: number, hi: number): void {
    this.#m.store(gpa, 8, lo, hi);
  }

  /** Caching mode copies whole tables: there most entries are empty. */
  #descriptor(at: number): void {
    const r = this.#rnd;
    if (!r.chance(this.#density)) {
      this.#store(at, 0, 0);
      return;
    }
    const to = r.chance(97) ? this.#table() : r.next() & ~0xfff;
    this.#store(at, to | (r.chance(90) ? 0x27 : r.next() & 0xfff), r.chance(3) ? r.next() : 0);
  }

  fill(): void {
    for (let at = TABLES; at < RAM; at += 8) this.#descriptor(at);
    for (const sid of SIDS) this.#context(sid);
    for (let n = 0; n < 16; n++) this.#irte(n);
  }

  /** A root and context entry, or (scalable mode) those, a directory and a PASID entry. */
  #context(sid: number): void {
    const r = this.#rnd;
    const bus = sid >> 8;
    const table = CONTEXTS + (bus << 12);
    this.#store(ROOT + 16 * bus, (table | 1) ^ this.#odd(3), 0);
    this.#store(ROOT + 16 * bus + 8, this.#odd(2), 0);
    if (!this.#scalable) {
      const at = table + 16 * (sid & 0xff);
      this.#store(at, (this.#table() | 1 | (r.pick([0, 0, 0, 1, 2]) << 2)) ^ this.#odd(5), this.#odd(1));
      this.#store(at + 8, (r.pick([1, 2, 2, 3]) | (r.below(4) << 8)) ^ this.#odd(3), 0);
      return;
    }
    const at = table + 32 * (sid & 0x7f);
    this.#store(at, (DIRECTORY | 1) ^ this.#odd(5), 0);
    for (let n = 1; n < 4; n++) this.#store(at + 8 * n, this.#odd(2), 0);
    this.#store(DIRECTORY, (PASIDS | 1) ^ this.#odd(3), 0);
    const entry = PASIDS + 64 * r.below(2);
    const pgtt = r.pick([1, 1, 2, 2, 3, 4]);
    this.#store(entry, (this.#table() | 1 | (2 << 2) | (pgtt << 6)) ^ this.#odd(5), 0);
    this.#store(entry + 8, r.below(4) ^ this.#odd(3), 0);
    this.#store(entry + 16, this.#table() ^ this.#odd(5), 0);
    for (let n = 3; n < 8; n++) this.#store(entry + 8 * n, 0, 0);
  }

  #irte(n: number): void {
    const r = this.#rnd;
    this.#store(IRT + 16 * n, (1 | (0x30 << 16)) ^ this.#odd(20), r.next() & 0xff00);
    this.#store(IRT + 16 * n + 8, r.chance(50) ? 0 : (1 << 18) | r.pick(SIDS), this.#odd(5));
  }

  enable(): void {
    const m = this.#m;
    const r = this.#rnd;
    const scalable = this.#scalable && r.chance(95);
    m.write(PAGE.FSTS.at, 4, -1, 0);
    m.write(PAGE.GCMD.at, 4, 0, 0);
    m.write(PAGE.IQA.at, 8, QUEUE | (scalable ? 0x800 : 0), 0);
    m.write(PAGE.RTADDR.at, 8, ROOT | (scalable ? 0x400 : 0), 0);
    m.write(PAGE.IRTA.at, 8, IRT | 3, 0);
    for (const at of [PAGE.FECTL.at, PAGE.IECTL.at]) m.write(at, 4, 0, 0);
    m.write(PAGE.GCMD.at, 4, GCMD.SRTP, 0);
    m.write(PAGE.GCMD.at, 4, GCMD.SIRTP, 0);
    const levels = (r.chance(90) ? GCMD.QIE : 0) | (r.chance(80) ? GCMD.IRE : 0);
    m.write(PAGE.GCMD.at, 4, levels, 0);
    m.write(PAGE.GCMD.at, 4, levels | GCMD.TE, 0);
    // Where a queue that would not be switched off stands.
    m.read(PAGE.IQH.at, 8);
    this.#tail = (m.lo & 0xfff) / (this.#scalable ? 32 : 16);
    m.write(PAGE.IQT.at, 8, m.lo, 0);
  }

  #memory(): void {
    const r = this.#rnd;
    const what = r.below(10);
    if (what < 6) this.#descriptor(TABLES + (r.below(RAM - TABLES) & ~7));
    else if (what < 8) this.#context(r.pick(SIDS));
    else if (what < 9) this.#irte(r.below(16));
    else this.#store(8 * r.below(TABLES / 8), r.next(), r.next());
  }

  #command(): void {
    const r = this.#rnd;
    const words = this.#scalable ? 8 : 4;
    const at = QUEUE + this.#tail * words * 4;
    const type = r.chance(95) ? r.pick([1, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 9]) : r.below(128);
    const g = r.below(4) << 4;
    const lo =
      (type & 15) | ((type >> 4) << 9) | (type === 5 ? r.pick([0x20, 0x20, 0x30, 0x40, 0]) : g) | (r.below(4) << 16);
    this.#store(at, lo ^ this.#odd(3), r.chance(50) ? r.pick(SIDS) : r.below(2));
    const address = type === 5 ? 0x1000 + 4 * r.below(64) : (r.next() & ~0xfff) | r.below(20);
    this.#store(at + 8, r.chance(30) && type !== 5 ? 0 : address, this.#odd(3));
    for (let n = 4; n < words; n += 2) this.#store(at + 4 * n, 0, 0);
    this.#tail = (this.#tail + 1) % (4096 / (words * 4));
    this.#m.write(PAGE.IQT.at, 8, (this.#tail * words * 4) ^ (r.chance(2) ? 1 << r.below(20) : 0), 0);
    this.#m.read(PAGE.FSTS.at, 4);
    if ((this.#m.lo & FSTS.IQE) !== 0) this.enable();
    this.#m.write(PAGE.FSTS.at, 4, -1, 0);
    this.#m.write(PAGE.FRCD_HI.at, 8, 0, 0x8000_0000 | 0);
  }

  #register(): void {
    const r = this.#rnd;
    const size = r.pick([1, 2, 4, 4, 8, 8]);
    const off = r.below(r.chance(90) ? 0x240 : 0x1000) & ~(size - 1);
    const wild = (r.next() & ~0xfff) | r.below(0x1000);
    if (r.chance(50)) this.#m.read(off, size);
    else this.#m.write(off, size, r.chance(50) ? this.#table() | r.below(16) : wild, r.chance(60) ? 0 : r.next());
  }

  #dma(): number {
    const r = this.#rnd;
    const lo = r.chance(85) ? r.below(RAM) : r.next();
    const hi = r.chance(90) ? 0 : r.next();
    const status = this.#m.dma(r.pick(SIDS), lo, hi, r.chance(50) ? ACCESS.READ : ACCESS.WRITE);
    if (status !== DMA.OK) return 0;
    const { out } = this.#m;
    // -1 is memory of somebody else; beside RAM lies address space in which nothing answers.
    expect(out >= 0, `DMA reached 0x${out.toString(16)}`).toBe(true);
    return 1;
  }

  #interrupt(): void {
    const r = this.#rnd;
    const address = 0xfee0_0000 + (r.chance(80) ? 0x10 | (r.below(20) << 5) | (r.below(2) << 3) : r.below(0x10_0000));
    this.#m.remap(r.pick(SIDS), address, r.chance(80) ? 0 : r.next());
  }

  /** @returns 1 when a DMA access went through. */
  act(): number {
    const what = this.#rnd.below(100);
    if (what < 42) return this.#dma();
    if (what < 62) this.#memory();
    else if (what < 86) this.#command();
    else if (what < 92) this.#interrupt();
    else if (what < 99) this.#register();
    else this.enable();
    return 0;
  }
}

test.each([
  ['', 'qemu-11.1', 15_000],
  [',caching-mode=on,device-iotlb=on', 'qemu-11.1', 2_000],
  [',scalable-mode=on', 'qemu-11.1', 15_000],
  [',scalable-mode=on,fsts=on,svm=on,pasid-bits=20,device-iotlb=on', 'qemu-11.1', 15_000],
  [',caching-mode=on', 'arch', 2_000],
  [',scalable-mode=on,fsts=on,pasid-bits=20', 'arch', 15_000],
] as const)(
  'no guest of intel-iommu%s (%s) makes anything throw, hang or leave its memory, in %i random actions',
  (properties, profile, actions) => {
    const heard = new Heard();
    const machine = makeReplayMachine(header(properties), { profile }, heard.tell);
    const guest = new Guest(
      machine,
      new Random(0x1357),
      properties.includes('scalable'),
      properties.includes('caching') ? 0.7 : 100,
    );
    guest.fill();
    guest.enable();
    let through = 0;
    for (let n = 0; n < actions; n++) {
      through += guest.act();
      if (n % 10_000 === 9_999) {
        machine.reset();
        guest.enable();
      }
      heard.irqs = [];
      heard.records = [];
    }
    expect(through, 'some DMA goes through').toBeGreaterThan(actions / 200);
    for (const name of ['iotlb', 'context-cache', 'wait', 'iec'])
      expect(heard.commands.get(name) ?? 0, name).toBeGreaterThan(actions / 1000);
  },
);
