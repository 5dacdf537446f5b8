import { bits, checkFormOf, type FormOf, type IntegerForm, WORD } from '../../src/lib/saved/state-form.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import { DESCRIPTOR_FORM, DESCRIPTOR_WORDS, type Descriptor, decodeDescriptor } from './descriptor.ts';
import { Shell, type ShellOptions } from './shell.ts';
import { checkWork, WORK_UNIT_FORM, type WorkTiming, WorkUnit, type WorkUnitState } from './work-unit.ts';

/** BAR0 of the accelerator; queue n at QUEUE + n * QUEUE_BYTES. */
// biome-ignore format: table
export const ACCEL = {
  QUEUES: 0x00, CONTROL: 0x04, DRAIN: 0x08, DROPPED: 0x0c,
  QUEUE: 0x100, QUEUE_BYTES: 0x20, MODE: 0x00, QUEUE_PASID: 0x04, DEPTH: 0x08, USED: 0x0c,
  TABLE: 0x800, PENDING: 0xc00, BYTES: 0x1000,
  /** BAR2: one page a queue, descriptors are 64-byte writes to it. */
  PORTAL_BYTES: 0x1000,
} as const;

/** Mode bits of a work queue. */
export const QUEUE_MODE = { ENABLE: 1, DEDICATED: 2, HAS_PASID: 4 } as const;
/** DRAIN: the PASID, bit 30: requests without PASID, bit 31 reads as one while work is left. */
export const DRAIN = { NONE: 0x4000_0000, BUSY: 0x8000_0000 } as const;

const QUEUES = 4;
const MOST_DEPTH = 128;

/** CONTROL, DRAIN, DROPPED, then MODE, PASID and DEPTH of a queue. */
const REGISTERS: readonly IntegerForm[] = [
  bits(1),
  bits(~DRAIN.BUSY),
  WORD,
  bits(7),
  { from: 0, to: 0xf_ffff },
  { from: 0, to: MOST_DEPTH },
];

/** How an accelerator is made: its capabilities, queues and timing. */
export interface AcceleratorOptions
  extends Partial<Pick<ShellOptions, 'ats' | 'pri' | 'pasid' | 'atc' | 'translatedOnly'>> {
  /** How long work takes; default: none, work is done when it is submitted. */
  readonly timing?: WorkTiming;
  /** On a root bus, without a link (default: an endpoint on a link). */
  readonly integrated?: boolean;
}

interface AcceleratorState {
  readonly regs: readonly number[];
  readonly queues: readonly (readonly Descriptor[])[];
  readonly unit: WorkUnitState | null;
  /** Queue of the descriptor in work. */
  readonly owner: number;
  /** Words of descriptors whose last word is missing, queue by queue. */
  readonly portal: readonly number[];
}

const FORM: FormOf<AcceleratorState> = {
  members: {
    regs: { each: (i) => REGISTERS[i < 3 ? i : 3 + ((i - 3) % 3)]!, length: 3 + 3 * QUEUES },
    queues: { each: { each: DESCRIPTOR_FORM, most: MOST_DEPTH }, length: QUEUES },
    unit: { orNull: WORK_UNIT_FORM },
    owner: { from: 0, to: QUEUES - 1 },
    portal: { each: WORD, length: QUEUES * DESCRIPTOR_WORDS },
  },
};

function checkAccelerator(state: unknown, path: string): void {
  checkFormOf<AcceleratorState>(state, FORM, path);
  const { unit } = state as AcceleratorState;
  if (unit !== null) checkWork(unit, `${path}.unit`);
}

/**
 * An accelerator with shared and dedicated work queues. A shared queue takes 64-byte enqueues that carry a PASID and may be
 * refused (ENQCMD); a dedicated one takes plain 64-byte writes and sends the PASID of its register (MOVDIR64B).
 */
export class Accelerator {
  /** What is plugged in. */
  readonly fn: Shell;
  readonly #unit: WorkUnit;
  /** CONTROL, DRAIN, DROPPED; then MODE, PASID, DEPTH of each queue. */
  readonly #regs = new Int32Array(3 + 3 * QUEUES);
  readonly #queues: Descriptor[][] = Array.from({ length: QUEUES }, () => []);
  readonly #portal = new Int32Array(QUEUES * DESCRIPTOR_WORDS);
  #owner = QUEUES - 1;

  constructor(options: AcceleratorOptions = {}) {
    this.fn = new Shell({
      name: 'accelerator',
      identity: { vendor: 0x1b36, device: 0x00d1, classCode: 0x088000, pin: 1 },
      bars: [
        { index: 0, bytes: ACCEL.BYTES, kind: 'mem64' },
        { index: 2, bytes: QUEUES * ACCEL.PORTAL_BYTES, kind: 'mem64' },
      ],
      msix: { vectors: QUEUES, bar: 0, table: ACCEL.TABLE, pending: ACCEL.PENDING },
      ats: options.ats === undefined ? {} : options.ats,
      pri: options.pri === undefined ? { capacity: 512 } : options.pri,
      pasid: options.pasid === undefined ? { width: 20, priv: true } : options.pasid,
      ...(options.atc === undefined ? {} : { atc: options.atc }),
      ...(options.translatedOnly === undefined ? {} : { translatedOnly: options.translatedOnly }),
      ...(options.integrated === undefined ? {} : { integrated: options.integrated }),
    });
    this.#unit = new WorkUnit(this.fn.memory, options.timing ?? null);
    this.fn.behave({
      barRead: (bar, offset, size) => (bar === 0 && size === 4 ? this.#read(offset) : 0),
      barWrite: (bar, offset, size, value) => {
        if (size !== 4) return;
        if (bar === 0) this.#write(offset, value);
        else this.#portalWrite(offset, value);
      },
      reset: () => this.#reset(),
      resumed: (token, outcome) => this.#unit.resumed(token, outcome),
      save: (): AcceleratorState => ({
        regs: Array.from(this.#regs),
        queues: this.#queues.map((q) => [...q]),
        unit: this.#unit.save(),
        owner: this.#owner,
        portal: Array.from(this.#portal),
      }),
      checkState: checkAccelerator,
      load: (state, cold) => this.#load(state as AcceleratorState, cold),
    });
  }

  #reset(): void {
    this.#unit.reset();
    this.#regs.fill(0);
    this.#portal.fill(0);
    this.#owner = QUEUES - 1;
    for (const q of this.#queues) q.length = 0;
  }

  #queueReg(offset: number): number {
    const n = Math.floor((offset - ACCEL.QUEUE) / ACCEL.QUEUE_BYTES);
    const word = ((offset - ACCEL.QUEUE) % ACCEL.QUEUE_BYTES) / 4;
    return offset >= ACCEL.QUEUE && n < QUEUES && word < 3 ? 3 + 3 * n + word : -1;
  }

  #read(offset: number): number {
    this.#unit.goOn();
    switch (offset) {
      case ACCEL.QUEUES:
        return QUEUES;
      case ACCEL.CONTROL:
        return this.#regs[0]!;
      case ACCEL.DRAIN:
        return (this.#regs[1]! | (this.#hasWork(this.#regs[1]!) ? DRAIN.BUSY : 0)) >>> 0;
      case ACCEL.DROPPED:
        return this.#regs[2]! >>> 0;
    }
    const i = this.#queueReg(offset);
    if (i >= 0) return this.#regs[i]! >>> 0;
    const n = (offset - ACCEL.QUEUE - ACCEL.USED) / ACCEL.QUEUE_BYTES;
    return this.#queues[n]?.length ?? 0;
  }

  #write(offset: number, value: number): void {
    switch (offset) {
      case ACCEL.CONTROL:
        if ((value & 2) !== 0) this.#reset();
        else {
          this.#regs[0] = value & 1;
          this.#next();
        }
        return;
      case ACCEL.DRAIN:
        this.#regs[1] = value & ~DRAIN.BUSY;
        return;
      case ACCEL.DROPPED:
        this.#regs[2] = 0;
        return;
    }
    const i = this.#queueReg(offset);
    if (i < 0) return;
    const word = (i - 3) % 3;
    this.#regs[i] = word === 2 ? Math.min(value >>> 0, MOST_DEPTH) : value & (word === 0 ? 7 : 0xf_ffff);
  }

  /** Whether anything of the PASID is queued or in work: what must be over before the PASID is used again. */
  #hasWork(drain: number): boolean {
    const pasid = (drain & DRAIN.NONE) !== 0 ? NO_PASID : drain & 0xf_ffff;
    return this.#unit.pasid === pasid || this.#queues.some((q) => q.some((d) => d.pasid === pasid));
  }

  /** A dedicated queue's portal: the last word of 16 submits. */
  #portalWrite(offset: number, value: number): void {
    const queue = Math.floor(offset / ACCEL.PORTAL_BYTES);
    const word = (offset % 64) / 4;
    const at = queue * DESCRIPTOR_WORDS;
    this.#portal[at + word] = value;
    if (word !== DESCRIPTOR_WORDS - 1) return;
    const mode = this.#regs[3 + 3 * queue]!;
    const dedicated = (mode & QUEUE_MODE.DEDICATED) !== 0;
    const on = this.fn.memory.pasid?.enabled === true && (mode & QUEUE_MODE.HAS_PASID) !== 0;
    const pasid = on ? this.#regs[3 + 3 * queue + 1]! : NO_PASID;
    // A posted write cannot be refused: what does not fit is lost, and counted.
    if (!dedicated || !this.#enqueue(queue, this.#portal.slice(at, at + DESCRIPTOR_WORDS), pasid)) this.#regs[2]!++;
  }

  /**
   * ENQCMD: a deferrable 64-byte write with the PASID the processor put in (bits 19:0 of the command are replaced by it).
   * @param pasid what the processor's PASID table made of the local one. @returns false: retry (queue full, off or dedicated).
   */
  enqcmd(queue: number, words: Int32Array, pasid: number): boolean {
    const mode = this.#regs[3 + 3 * queue] ?? 0;
    if ((mode & QUEUE_MODE.DEDICATED) !== 0 || this.fn.memory.pasid?.enabled !== true) return false;
    return this.#enqueue(queue, words, pasid);
  }

  #enqueue(queue: number, words: Int32Array, pasid: number): boolean {
    const mode = this.#regs[3 + 3 * queue]!;
    const depth = this.#regs[3 + 3 * queue + 2]!;
    const list = this.#queues[queue]!;
    if ((this.#regs[0]! & 1) === 0 || (mode & QUEUE_MODE.ENABLE) === 0 || list.length >= depth) return false;
    list.push(decodeDescriptor(words, pasid, false));
    this.#next();
    return true;
  }

  /** One unit serves the queues in turn, so a queue full of faulting work does not starve the others for ever. */
  #next(): void {
    if (this.#unit.busy || (this.#regs[0]! & 1) === 0) return;
    for (let i = 0; i < QUEUES; i++) {
      const queue = (this.#owner + 1 + i) % QUEUES;
      const d = this.#queues[queue]!.shift();
      if (d === undefined) continue;
      this.#owner = queue;
      this.#unit.start(d, this.#finished(d));
      return;
    }
  }

  #load(state: AcceleratorState, cold: boolean): void {
    this.#regs.set(state.regs);
    for (const [n, q] of state.queues.entries()) this.#queues[n]!.splice(0, Number.POSITIVE_INFINITY, ...q);
    this.#owner = state.owner;
    this.#portal.set(state.portal);
    if (state.unit !== null) this.#unit.load(state.unit, this.#finished(state.unit.work), cold);
    else this.#next();
  }

  #finished(d: Descriptor): () => void {
    const queue = this.#owner;
    return () => {
      if (d.interrupt) this.fn.interrupts.raise(queue);
      this.#next();
    };
  }
}
