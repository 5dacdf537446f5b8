import { fromWords } from '../../src/core/bits.ts';
import { Bars } from '../../src/lib/pci/bars.ts';
import { ConfigSpace } from '../../src/lib/pci/config-space.ts';
import { endpointHeader } from '../../src/lib/pci/header.ts';
import { checkFormOf, type FormOf, refuseField, UNSIGNED } from '../../src/lib/saved/state-form.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../src/ports/dma.ts';
import type { Memory } from '../../src/ports/memory.ts';
import type { PciFunction, PciWindow, Upstream } from '../../src/ports/pci.ts';
import { fillPattern } from './pattern.ts';

/** BAR0 of QEMU's iommu-testdev; accesses of 4 bytes only. */
// biome-ignore format: table
export const TESTDEV = {
  TRIGGER: 0x00, IOVA_LOW: 0x04, IOVA_HIGH: 0x08, LEN: 0x0c, RESULT: 0x10, DOORBELL: 0x14, ATTRS: 0x18,
  GPA_LOW: 0x1c, GPA_HIGH: 0x20,
} as const;

/** RESULT values. */
// biome-ignore format: table
export const RESULT = {
  OK: 0, IDLE: 0xffff_ffff, BUSY: 0xffff_fffe, BAD_LENGTH: 0xdead_0001, WRITE_FAILED: 0xdead_0002, READ_FAILED: 0xdead_0003,
  MISMATCH: 0xdead_0004, NOT_ARMED: 0xdead_0005, BAD_ATTRS: 0xdead_0006,
} as const;

const PATTERN = 0x1234_5678;
/** DMA and verification go in pieces: a guest's LEN (up to 4 GiB) takes bounded memory. */
const PIECE = 1024;
/** Pieces of one trigger that may fail before the rest is given up. */
const MOST_FAILED = 16;

/** Saved state of `IommuTestdev`. */
export interface TestdevState {
  readonly config: readonly number[];
  readonly regs: readonly number[];
  readonly armed: boolean;
  /** null: nothing is under way. */
  readonly job: TestdevJob | null;
}

/** A trigger that is being carried out. */
export interface TestdevJob {
  /** IOVA, low word. */
  readonly lo: number;
  /** IOVA, high word. */
  readonly hi: number;
  /** Where it is verified. */
  readonly gpa: number;
  /** Bytes. */
  readonly length: number;
  /** All of it was written, and it is read back. */
  verifies: boolean;
  /** Bytes written, or read back. */
  done: number;
  /** Pieces that failed. */
  failed: number;
  /** What was read back so far is what was written. */
  equal: boolean;
}

/**
 * QEMU's `iommu-testdev`: reading TRIGGER writes a pattern through the IOMMU and reads it back untranslated, so that only
 * the write is ever translated. Conventional PCI, no capabilities.
 */
export class IommuTestdev implements PciFunction {
  readonly name = 'iommu-testdev';
  readonly windows: readonly PciWindow[];
  readonly #config = new ConfigSpace(256);
  readonly #bars: Bars;
  readonly #system: Memory;
  readonly #regs = new Uint32Array(9);
  readonly #piece = new Uint8Array(PIECE);
  readonly #back = new Uint8Array(PIECE);
  #armed = false;
  #job: TestdevJob | null = null;
  #upstream: Upstream | null = null;

  /** @param system guest-physical memory, where the result is verified. */
  constructor(system: Memory) {
    this.#system = system;
    endpointHeader(this.#config, { vendor: 0x1b36, device: 0x0005, classCode: 0xff0000 });
    this.#bars = new Bars(this.#config, [{ index: 0, bytes: 4096, kind: 'mem32' }]);
    this.windows = [{ bytes: 4096, io: false, address: () => this.#bars.address(0) }];
    this.reset();
  }

  configRead(offset: number, size: number): number {
    return this.#config.read(offset, size);
  }

  configWrite(offset: number, size: number, value: number): void {
    this.#config.write(offset, size, value);
  }

  connect(upstream: Upstream | null): void {
    this.#upstream = upstream;
  }

  reset(): void {
    this.#config.reset();
    this.#regs.fill(0);
    this.#regs[TESTDEV.RESULT / 4] = RESULT.IDLE;
    this.#regs[TESTDEV.ATTRS / 4] = 2;
    this.#armed = false;
    this.#job = null;
  }

  barRead(_bar: number, offset: number, size: number): number {
    if (size !== 4) return 0;
    this.#goOn();
    switch (offset) {
      case TESTDEV.TRIGGER:
        this.#regs[TESTDEV.RESULT / 4] = this.#run();
        return 0;
      case TESTDEV.IOVA_LOW:
      case TESTDEV.IOVA_HIGH:
      case TESTDEV.LEN:
      case TESTDEV.RESULT:
      case TESTDEV.ATTRS:
      case TESTDEV.GPA_LOW:
      case TESTDEV.GPA_HIGH:
        return this.#regs[offset / 4]!;
      default:
        return 0;
    }
  }

  barWrite(_bar: number, offset: number, size: number, value: number): void {
    if (size !== 4) return;
    switch (offset) {
      case TESTDEV.IOVA_LOW:
      case TESTDEV.IOVA_HIGH:
      case TESTDEV.LEN:
      case TESTDEV.RESULT:
      case TESTDEV.ATTRS:
      case TESTDEV.GPA_LOW:
      case TESTDEV.GPA_HIGH:
        this.#regs[offset / 4] = value;
        return;
      case TESTDEV.DOORBELL:
        this.#armed = (value & 1) !== 0;
        this.#regs[TESTDEV.RESULT / 4] = this.#armed ? RESULT.BUSY : RESULT.IDLE;
        return;
    }
  }

  #run(): number {
    const r = this.#regs;
    if (!this.#armed) return RESULT.NOT_ARMED;
    this.#armed = false;
    const length = r[TESTDEV.LEN / 4]!;
    if (length === 0) return RESULT.BAD_LENGTH;
    const attrs = r[TESTDEV.ATTRS / 4]!;
    const space = (attrs >>> 1) & 3;
    if ((attrs & 8) !== 0 && space < 2 && ((attrs & 1) !== 0) !== (space === 0)) return RESULT.BAD_ATTRS;
    if (this.#upstream === null) return RESULT.WRITE_FAILED;
    const iova = { lo: r[TESTDEV.IOVA_LOW / 4]!, hi: r[TESTDEV.IOVA_HIGH / 4]! };
    const gpa = fromWords(r[TESTDEV.GPA_LOW / 4]!, r[TESTDEV.GPA_HIGH / 4]!);
    this.#job = { ...iova, gpa, length, verifies: false, done: 0, failed: 0, equal: true };
    return this.#work(this.#job);
  }

  /** What an earlier access could not do goes on, and RESULT says BUSY until it is over. */
  #goOn(): void {
    const job = this.#job;
    if (job !== null) this.#regs[TESTDEV.RESULT / 4] = this.#work(job);
  }

  /** As much of a job as one access may cost. @returns what RESULT says now. */
  #work(job: TestdevJob): number {
    const work = this.#upstream?.work;
    while (job.done < job.length || !job.verifies) {
      if (job.done >= job.length || job.failed === MOST_FAILED) {
        if (job.failed > 0) break;
        job.verifies = true;
        job.done = 0;
        continue;
      }
      if (work?.spent === true) {
        work.later(() => {
          if (this.#job === job) this.#goOn();
        });
        return RESULT.BUSY;
      }
      if (!job.verifies) this.#write(job);
      else if (!this.#verify(job)) {
        this.#job = null;
        return RESULT.READ_FAILED;
      }
    }
    this.#job = null;
    if (job.failed > 0) return RESULT.WRITE_FAILED;
    return job.equal ? RESULT.OK : RESULT.MISMATCH;
  }

  /** The next piece of the pattern, through the IOMMU. */
  #write(job: TestdevJob): void {
    const { lo, hi, done } = job;
    const low = (lo >>> 0) + (done % 0x1_0000_0000);
    const at = low % 0x1_0000_0000;
    const n = Math.min(job.length - done, PIECE - (at % PIECE));
    fillPattern(this.#piece, PATTERN, done);
    const up = (hi + (low >= 0x1_0000_0000 ? 1 : 0)) | 0;
    const result =
      this.#upstream?.write(NO_PASID, at | 0, up, ACCESS.WRITE, AT.UNTRANSLATED, this.#piece, 0, n) ?? DMA.ABORT;
    if (result !== DMA.OK) job.failed++;
    job.done += n;
  }

  /** Reads the next piece back, untranslated. @returns false: it cannot be read. */
  #verify(job: TestdevJob): boolean {
    const { done } = job;
    const n = Math.min(PIECE, job.length - done);
    const back = n === PIECE ? this.#back : this.#back.subarray(0, n);
    if (job.gpa + done + n > 2 ** 52 || !this.#system.readBytes(job.gpa + done, back)) return false;
    for (let i = 0; i < n; i++) job.equal &&= back[i] === ((PATTERN >>> (8 * ((done + i) & 3))) & 0xff);
    this.#upstream?.work?.spend(1);
    job.done += n;
    return true;
  }

  save(): TestdevState {
    const job = this.#job === null ? null : { ...this.#job };
    return { config: this.#config.save(), regs: Array.from(this.#regs), armed: this.#armed, job };
  }

  checkState(state: unknown, path: string): void {
    const job: FormOf<TestdevJob> = {
      members: {
        lo: UNSIGNED,
        hi: UNSIGNED,
        gpa: { from: 0, to: 2 ** 64 },
        length: { from: 1, to: 2 ** 32 - 1 },
        verifies: 'boolean',
        done: UNSIGNED,
        failed: { from: 0, to: MOST_FAILED },
        equal: 'boolean',
      },
    };
    const regs = { each: UNSIGNED, length: this.#regs.length };
    const members = { config: this.#config.form(), regs, armed: 'boolean', job: { orNull: job } } as const;
    checkFormOf<TestdevState>(state, { members }, path);
    const given = (state as TestdevState).job;
    if (given !== null && given.done > given.length) refuseField(`${path}.job.done`, given.done, 'at most job.length');
  }

  load(saved: unknown): void {
    const state = saved as TestdevState;
    this.#config.load(state.config);
    this.#regs.set(state.regs);
    this.#armed = state.armed;
    this.#job = state.job === null ? null : { ...state.job };
    this.#goOn();
  }
}
