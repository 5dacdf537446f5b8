import { Sriov } from '../../src/lib/pci/sriov.ts';
import { bits, checkFormOf, type FormOf, type IntegerForm, refuseField, WORD } from '../../src/lib/saved/state-form.ts';
import { DMA, NO_PASID } from '../../src/ports/dma.ts';
import { DESCRIPTOR_WORDS, type Descriptor, decodeDescriptor, WORK_STATUS } from './descriptor.ts';
import { Shell, type ShellOptions } from './shell.ts';
import { checkWork, WORK_UNIT_FORM, type WorkTiming, WorkUnit, type WorkUnitState } from './work-unit.ts';

/** BAR0 of the DMA engine. */
// biome-ignore format: table
export const ENGINE = {
  CONTROL: 0x00, STATE: 0x04, RING_LOW: 0x08, RING_HIGH: 0x0c, RING_LOG2: 0x10, TAIL: 0x14, HEAD: 0x18, PASID: 0x1c, ERRORS: 0x20,
  TABLE: 0x800, PENDING: 0xc00, BYTES: 0x1000,
} as const;

/** CONTROL bits. ANY_PASID: descriptors name their PASID. */
export const ENGINE_CONTROL = { ENABLE: 1, RESET: 2, ANY_PASID: 4 } as const;
/** STATE bits. RING_FAULT: a descriptor could not be read. */
export const ENGINE_STATE = { BUSY: 1, RING_FAULT: 2 } as const;
const HAS_PASID = 0x8000_0000;
const MOST_LOG2 = 8;

/** How a DMA engine is made: its capabilities and timing. */
export interface EngineOptions extends Partial<Pick<ShellOptions, 'ats' | 'pri' | 'pasid' | 'atc' | 'translatedOnly'>> {
  /** How long work takes; default: none, work is done when it is submitted. */
  readonly timing?: WorkTiming;
  /** On a root bus, without a link (default: an endpoint on a link). */
  readonly integrated?: boolean;
  /** Virtual functions (SR-IOV): engines of their own behind requester ids that follow this one's. */
  readonly virtualFunctions?: number;
}

interface EngineState {
  readonly regs: readonly number[];
  readonly unit: WorkUnitState | null;
}

/**
 * A DMA engine: a ring of descriptors in memory, copied, filled and compared through its own ATC, under the ring's PASID or
 * (ANY_PASID) the descriptors'.
 */
export class DmaEngine {
  /** What is plugged in. */
  readonly fn: Shell;
  /** What does the work. */
  readonly unit: WorkUnit;
  /** null: no SR-IOV. */
  readonly sriov: Sriov<DmaEngine> | null;
  readonly #regs = new Int32Array(9);
  readonly #fetch = new Uint8Array(DESCRIPTOR_WORDS * 4);
  readonly #words = new Int32Array(this.#fetch.buffer);

  /** @param virtual set for a virtual function: where its window is. */
  constructor(options: EngineOptions = {}, virtual?: { address(bar: number): number }) {
    this.fn = new Shell({
      ...(virtual === undefined ? {} : { virtual }),
      name: 'dma-engine',
      identity: { vendor: 0x1b36, device: 0x00d0, classCode: 0x088000, pin: 1 },
      bars: [{ index: 0, bytes: ENGINE.BYTES, kind: 'mem64' }],
      msix: { vectors: 2, bar: 0, table: ENGINE.TABLE, pending: ENGINE.PENDING },
      ats: options.ats === undefined ? {} : options.ats,
      pri: options.pri === undefined ? { capacity: 32 } : options.pri,
      pasid: options.pasid === undefined ? { width: 20, priv: true } : options.pasid,
      ...(options.atc === undefined ? {} : { atc: options.atc }),
      ...(options.translatedOnly === undefined ? {} : { translatedOnly: options.translatedOnly }),
      ...(options.integrated === undefined ? {} : { integrated: options.integrated }),
    });
    this.sriov = (options.virtualFunctions ?? 0) > 0 ? this.#virtual(options) : null;
    this.unit = new WorkUnit(this.fn.memory, options.timing ?? null);
    this.fn.behave({
      barRead: (_, offset, size) => this.#read(offset, size),
      barWrite: (_, offset, size, value) => this.#write(offset, size, value),
      reset: () => this.#reset(),
      resumed: (token, outcome) => this.unit.resumed(token, outcome),
      save: (): EngineState => ({ regs: Array.from(this.#regs), unit: this.unit.save() }),
      load: (state, cold) => this.#load(state as EngineState, cold),
      checkState: checkEngine,
      settle: () => this.sriov?.settle(),
      respawn: () => this.sriov?.restore(),
      spawnedBy: (config) => this.sriov?.spawnedBy(config).map(({ offset, fn: { fn } }) => ({ offset, fn })) ?? [],
    });
  }

  #virtual(options: EngineOptions): Sriov<DmaEngine> {
    const { virtualFunctions, ...rest } = options;
    const sriov: Sriov<DmaEngine> = new Sriov(this.fn.config, {
      total: virtualFunctions!,
      offset: 1,
      stride: 1,
      device: 0x00d0,
      bars: this.fn.bars.specs,
      create: (index) => new DmaEngine(rest, { address: (bar) => sriov.address(index, bar) }),
      spawn: (upstream, offset, engine) => upstream.spawn(offset, engine.fn),
    });
    this.fn.onUpstream = (upstream) => {
      sriov.upstream = upstream;
    };
    return sriov;
  }

  #reset(): void {
    this.sriov?.disable();
    this.unit.reset();
    this.#regs.fill(0);
  }

  #read(offset: number, size: number): number {
    this.unit.goOn();
    if (size !== 4 || offset > ENGINE.ERRORS) return 0;
    const value = this.#regs[offset / 4]!;
    return (offset === ENGINE.STATE && this.unit.busy ? value | ENGINE_STATE.BUSY : value) >>> 0;
  }

  #write(offset: number, size: number, value: number): void {
    if (size !== 4) return;
    const r = this.#regs;
    switch (offset) {
      case ENGINE.CONTROL:
        if ((value & ENGINE_CONTROL.RESET) !== 0) this.#reset();
        else {
          r[0] = value & (ENGINE_CONTROL.ENABLE | ENGINE_CONTROL.ANY_PASID);
          this.#next();
        }
        return;
      case ENGINE.STATE:
        r[1]! &= ~(value & ENGINE_STATE.RING_FAULT);
        return;
      case ENGINE.RING_LOW:
        r[2] = value & -64;
        return;
      case ENGINE.RING_HIGH:
        r[3] = value;
        return;
      case ENGINE.RING_LOG2:
        r[4] = Math.min(value & 0x1f, MOST_LOG2);
        return;
      case ENGINE.TAIL:
        r[5] = value & (2 ** r[4]! - 1);
        this.#next();
        return;
      case ENGINE.PASID:
        r[7] = value & (HAS_PASID | 0xf_ffff);
        return;
      case ENGINE.ERRORS:
        r[8] = 0;
        return;
    }
  }

  /** PASID of the ring: only with the capability on does the function send one. */
  #pasid(): number {
    const on = this.fn.memory.pasid?.enabled === true;
    return on && (this.#regs[7]! & HAS_PASID) !== 0 ? this.#regs[7]! & 0xf_ffff : NO_PASID;
  }

  /** Fetches the next descriptor and starts it, if the engine is on and idle. */
  #next(): void {
    const r = this.#regs;
    if ((r[0]! & ENGINE_CONTROL.ENABLE) === 0 || this.unit.busy || r[6] === r[5]) return;
    if ((r[1]! & ENGINE_STATE.RING_FAULT) !== 0) return;
    const low = (r[2]! >>> 0) + r[6]! * 64;
    const hi = r[3]! + (low >= 0x1_0000_0000 ? 1 : 0);
    const pasid = this.#pasid();
    if (this.fn.memory.read(pasid, low | 0, hi | 0, this.#fetch, 0, 64) !== DMA.OK) {
      r[1]! |= ENGINE_STATE.RING_FAULT;
      this.fn.interrupts.raise(1);
      return;
    }
    const own = this.fn.memory.pasid?.enabled === true && (r[0]! & ENGINE_CONTROL.ANY_PASID) !== 0;
    const d = decodeDescriptor(this.#words, pasid, own);
    this.unit.start(d, this.#finished(d));
  }

  #load(state: EngineState, cold: boolean): void {
    this.#regs.set(state.regs);
    if (state.unit !== null) this.unit.load(state.unit, this.#finished(state.unit.work), cold);
    else this.#next();
  }

  #finished(d: Descriptor): (status: number) => void {
    const r = this.#regs;
    return (status) => {
      r[6] = (r[6]! + 1) & (2 ** r[4]! - 1);
      if (status !== WORK_STATUS.SUCCESS) r[8]!++;
      if (d.interrupt) this.fn.interrupts.raise(0);
      this.#next();
    };
  }
}

/** CONTROL, STATE, RING_LOW, RING_HIGH, RING_LOG2, TAIL, HEAD, PASID, ERRORS. */
const REGISTERS: readonly IntegerForm[] = [
  bits(ENGINE_CONTROL.ENABLE | ENGINE_CONTROL.ANY_PASID),
  bits(ENGINE_STATE.RING_FAULT),
  bits(-64),
  WORD,
  { from: 0, to: MOST_LOG2 },
  { from: 0, to: 2 ** MOST_LOG2 - 1 },
  { from: 0, to: 2 ** MOST_LOG2 - 1 },
  bits(HAS_PASID | 0xf_ffff),
  WORD,
];

const FORM: FormOf<EngineState> = {
  members: {
    regs: { each: (i) => REGISTERS[i]!, length: REGISTERS.length },
    unit: { orNull: WORK_UNIT_FORM },
  },
};

function checkEngine(state: unknown, path: string): void {
  checkFormOf<EngineState>(state, FORM, path);
  const { regs, unit } = state as EngineState;
  if (unit !== null) checkWork(unit, `${path}.unit`);
  const entries = 2 ** regs[4]!;
  // TAIL and HEAD keep their values when the ring becomes smaller: what they were is no longer known.
  if (unit !== null && regs[6]! >= entries) refuseField(`${path}.regs.6`, regs[6], `an entry of a ring of ${entries}`);
}
