import { expect, test } from 'vitest';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { ACCESS, DMA } from '../../src/ports/dma.ts';
import { PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import { Heard, type ReplayTarget, type TraceHeader } from '../../src/trace/index.ts';
import { Random } from '../../tools/oracle/random.ts';

const BASE = 0x4000_0000;
const RAM = 0x40_0000;
const SIDS = [0, 1, 8, 0x10, 0x100];

function header(options: string): TraceHeader {
  return {
    iommu: 'smmuv3',
    cmdline: `qemu-system-aarch64 -M virt${options}`,
    guestKernel: '',
    scenario: '',
    commands: null,
    mmio: { base: options.includes('-device') ? 0xc00_0000 : 0x905_0000, size: 0x2_0000 },
    ram: [{ gpa: BASE, size: RAM }],
    devices: SIDS.map((sid) => ({ name: `d${sid}`, sid, bdf: '', driver: null, domainType: null, ats: false })),
  };
}

/** A guest without a plan: half of what it writes makes sense. */
class Guest {
  readonly #m: ReplayTarget;
  readonly #rnd: Random;
  #prod = 0;

  constructor(machine: ReplayTarget, rnd: Random) {
    this.#m = machine;
    this.#rnd = rnd;
  }

  #ram(): number {
    return BASE + (this.#rnd.below(RAM) & ~7);
  }

  /** An address that is often aligned, mostly RAM, and sometimes anything. */
  #address(): number {
    const r = this.#rnd;
    if (r.chance(3)) return r.next();
    return BASE + (r.below(RAM) & (r.chance(80) ? ~0xfff : ~0x3f));
  }

  #store(gpa: number, lo: number, hi: number): void {
    this.#m.store(gpa, 8, lo, hi);
  }

  /** Descriptors everywhere above the first 128 KiB, most of them leading to others. */
  fill(): void {
    const r = this.#rnd;
    for (let at = 0x2_0000; at < RAM; at += 8) this.#descriptor(BASE + at);
    for (const [n, sid] of SIDS.entries()) this.#stream(sid, BASE + 0x1_8000 + 64 * n, r.pick([4, 5, 5, 6, 7]));
  }

  #descriptor(at: number): void {
    const r = this.#rnd;
    const to = r.chance(97) ? BASE + (r.below(RAM) & ~0xfff) : this.#address();
    this.#store(at, to | (r.next() & 0x8c0) | 0x440 | (r.chance(95) ? 3 : r.below(4)), r.chance(3) ? r.next() : 0);
  }

  #stream(sid: number, cd: number, config: number): void {
    const r = this.#rnd;
    const ste = BASE + 0x1_0000 + 64 * sid;
    const odd = (percent: number) => (r.chance(percent) ? 1 << r.below(32) : 0);
    const s2 = (24 | (1 << 6) | (4 << 16) | (1 << 19) | (1 << 26)) ^ odd(10);
    this.#store(ste, 1 | (config << 1) | cd, 0);
    this.#store(ste + 8, odd(10), odd(5));
    this.#store(ste + 16, r.below(4), s2);
    this.#store(ste + 24, BASE + 0x4_0000 + (r.below(8) << 12), 0);
    this.#store(cd, (25 | (1 << 30) | (1 << 31)) ^ odd(10), 4 | (0x72 << 8) | (r.below(8) << 16));
    this.#store(cd + 8, this.#address() & ~0xfff, 0);
  }

  enable(): void {
    const m = this.#m;
    const r = this.#rnd;
    m.write(PAGE0.CR0.at, 4, 0, 0);
    m.write(PAGE0.STRTAB_BASE.at, 8, BASE + 0x1_0000, 0);
    m.write(PAGE0.STRTAB_BASE_CFG.at, 4, r.chance(90) ? 9 : 0x1_0000 | (6 << 6) | 9, 0);
    m.write(PAGE0.CMDQ_BASE.at, 8, BASE + 0x2000 + 6, 0);
    m.write(PAGE0.EVENTQ_BASE.at, 8, BASE + 0x4000 + r.below(7), 0);
    m.write(PAGE0.CMDQ_PROD.at, 4, 0, 0);
    m.write(PAGE0.CMDQ_CONS.at, 4, 0, 0);
    this.#prod = 0;
    m.write(PAGE0.IRQ_CTRL.at, 4, 7, 0);
    m.write(PAGE0.CR0.at, 4, 0xd, 0);
  }

  /** Something like a table entry, an STE or a CD, somewhere. */
  #table(): void {
    const r = this.#rnd;
    if (r.chance(70)) this.#descriptor(this.#ram());
    else if (r.chance(90)) this.#stream(r.pick(SIDS), BASE + 0x1_8000 + 64 * r.below(5), r.pick([0, 4, 5, 5, 6, 7]));
    else this.#store(BASE + 8 * r.below(0x4000), r.next(), r.next());
  }

  #command(): void {
    const r = this.#rnd;
    const at = BASE + 0x2000 + (this.#prod & 63) * 16;
    const op = r.chance(90)
      ? r.pick([3, 3, 4, 5, 6, 0x10, 0x11, 0x12, 0x13, 0x28, 0x2a, 0x30, 0x46, 0x46])
      : r.below(256);
    this.#store(at, op | (r.chance(20) ? r.next() & ~0xff : 0), r.chance(70) ? r.pick(SIDS) : r.next());
    this.#store(at + 8, r.chance(50) ? r.next() : this.#address() & ~0xfff, r.chance(50) ? 0 : r.next());
    this.#prod = (this.#prod + 1) & 127;
    this.#m.write(PAGE0.CMDQ_PROD.at, 4, r.chance(98) ? this.#prod : r.next(), 0);
    this.#m.read(PAGE0.GERROR.at, 4);
    if ((this.#m.lo & 1) !== 0 && r.chance(80)) this.enable();
    this.#m.write(PAGE0.GERRORN.at, 4, this.#m.lo, 0);
  }

  #register(): void {
    const r = this.#rnd;
    const size = r.pick([1, 2, 4, 4, 4, 8]);
    const page = r.chance(10) ? 0x1_0000 : 0;
    const off = page + (r.chance(90) ? r.below(0x100) & ~(size - 1) : r.below(0x1_0000) & ~(size - 1));
    if (r.chance(50)) this.#m.read(off, size);
    else this.#m.write(off, size, r.chance(50) ? this.#address() : r.next(), r.chance(70) ? 0 : r.next());
  }

  #dma(): number {
    const r = this.#rnd;
    const sid = r.pick(SIDS);
    const lo = r.chance(80) ? BASE + r.below(RAM) : r.next();
    const hi = r.chance(90) ? 0 : r.next();
    const status = this.#m.dma(sid, lo, hi, r.chance(50) ? ACCESS.READ : ACCESS.WRITE);
    if (status !== DMA.OK) return 0;
    const { out } = this.#m;
    // -1 is memory of somebody else; beside RAM and doorbell lies address space in which nothing answers.
    expect(out >= 0, `DMA reached 0x${out.toString(16)}`).toBe(true);
    return 1;
  }

  /** @returns 1 when a DMA access went through. */
  act(): number {
    const r = this.#rnd;
    const what = r.below(100);
    if (what < 45) return this.#dma();
    if (what < 65) this.#table();
    else if (what < 92) this.#command();
    else if (what < 99) this.#register();
    else this.enable();
    return 0;
  }
}

test.each([
  [',iommu=smmuv3', 'qemu-11.1'],
  [',iommu=smmuv3', 'arch'],
  [' -device arm-smmuv3,primary-bus=pcie.0,stage=2', 'qemu-11.1'],
] as const)(
  'no guest of %s (%s) makes anything throw, hang or leave its memory, in 20,000 random actions',
  (options, profile) => {
    const heard = new Heard();
    const machine = makeReplayMachine(header(options), { profile }, heard.tell);
    const guest = new Guest(machine, new Random(0x2468));
    guest.fill();
    guest.enable();
    let through = 0;
    for (let n = 0; n < 20_000; n++) {
      through += guest.act();
      if (n % 5_000 === 4_999) machine.reset();
      heard.irqs = [];
      heard.records = [];
    }
    expect(through, 'some DMA goes through').toBeGreaterThan(150);
    for (const name of ['SMMU_CMD_CFGI_STE', 'SMMU_CMD_TLBI_NH_VA', 'SMMU_CMD_SYNC'])
      expect(heard.commands.get(name) ?? 0, name).toBeGreaterThan(150);
  },
);
