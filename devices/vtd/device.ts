import type { RegisterFile } from '../../src/core/registers.ts';
import type { PasidDrain } from '../../src/lib/pasid/pasid-drain.ts';
import type { InterruptRemapPort } from '../../src/ports/dma.ts';
import type { InterruptPort } from '../../src/ports/irq.ts';
import type { Memory } from '../../src/ports/memory.ts';
import type { MmioDevice } from '../../src/ports/mmio.ts';
import type { Tell } from '../../src/ports/tell.ts';
import { CONTEXT_G, INV_NAME, IOTLB_G, inv } from '../../src/spec/vtd/invalidation.ts';
import { FRO, GCMD, PAGE, TTM } from '../../src/spec/vtd/registers.ts';
import { pointer } from '../../src/spec/vtd/tables.ts';
import type { Backend, TableRoot } from './backend.ts';
import { InterruptRemapper, type RemapperState } from './interrupt-remapper.ts';
import { EventMessage } from './interrupts.ts';
import { PageRequestQueue } from './page-request-queue.ts';
import type { VtdShape } from './properties.ts';
import { InvalidationQueue, type QueueState } from './queue.ts';
import { FaultLog } from './records.ts';
import { registerPage, windowBytes } from './registers.ts';
import { VirtualCommands } from './virtual-commands.ts';

const ICC = 0x8000_0000 | 0;
const LEVELS = GCMD.TE | GCMD.QIE | GCMD.IRE | GCMD.CFI;

export interface RegisterUnitDeps {
  readonly shape: VtdShape;
  /** Guest-physical memory, windows included. */
  readonly memory: Memory;
  readonly irq: InterruptPort;
  readonly name: string;
  /** Made with the parts it needs; see `Backend`. */
  readonly backend: (unit: RegisterUnit) => Backend;
  /** What must be through before a PASID freed by VCMD is given out again. */
  readonly drain?: PasidDrain;
}

export interface UnitState {
  readonly regs: readonly number[];
  readonly queue: QueueState;
  readonly faults: number;
  readonly remapper: RemapperState;
  readonly root: TableRoot;
  readonly pasids: readonly number[];
}

/**
 * The register half of a vVT-d: one 4 KiB page of registers, the invalidation queue, fault logging, interrupt
 * remapping, page requests and virtual commands. What invalidations mean for the host is the backend's.
 */
export class RegisterUnit implements MmioDevice {
  readonly name: string;
  readonly bytes: number;
  readonly shape: VtdShape;
  readonly memory: Memory;
  readonly remapper: InterruptRemapper;
  readonly faults: FaultLog;
  readonly pageRequests: PageRequestQueue;
  readonly virtualCommands: VirtualCommands | null;
  readonly root: TableRoot = { on: false, base: 0, high: 0, mode: TTM.LEGACY };
  readonly #regs: RegisterFile;
  readonly #faultEvent: EventMessage;
  readonly #completion: EventMessage;
  readonly #pageEvent: EventMessage;
  readonly #queue: InvalidationQueue;
  readonly #backend: Backend;
  #tell: Tell | null = null;
  /** Inside a register access: DMA of the unit into its own window goes nowhere. */
  #busy = false;

  constructor(deps: RegisterUnitDeps) {
    const { shape, memory, irq, name } = deps;
    this.name = name;
    this.shape = shape;
    this.memory = memory;
    this.bytes = windowBytes(shape);
    const regs = registerPage(shape);
    this.#regs = regs;
    this.#faultEvent = new EventMessage(regs, PAGE.FECTL.at, irq, name, 'fault');
    this.#completion = new EventMessage(regs, PAGE.IECTL.at, irq, name, 'invalidation');
    this.#pageEvent = new EventMessage(regs, PAGE.PECTL.at, irq, name, 'page');
    this.faults = new FaultLog(regs, shape, this.#faultEvent, name);
    this.remapper = new InterruptRemapper(memory, shape, this.faults, name);
    this.pageRequests = new PageRequestQueue(regs, shape, memory, this.#pageEvent, name);
    this.#backend = deps.backend(this);
    this.virtualCommands = shape.virtualCommands
      ? new VirtualCommands(regs, shape.props.pasidBits, (pasid) => this.#backend.pasidFreed(pasid), deps.drain)
      : null;
    this.#queue = new InvalidationQueue({
      regs,
      shape,
      memory,
      faults: this.faults,
      completion: this.#completion,
      backend: this.#backend,
      remapper: this.remapper,
      tableMode: () => this.root.mode,
      device: name,
    });
  }

  get interrupts(): InterruptRemapPort {
    return this.remapper;
  }

  get tell(): Tell | null {
    return this.#tell;
  }

  /** Null: nobody listens. */
  set tell(tell: Tell | null) {
    this.#tell = tell;
    this.#queue.tell = this.faults.tell = this.remapper.tell = this.pageRequests.tell = tell;
    this.#faultEvent.tell = this.#completion.tell = this.#pageEvent.tell = tell;
  }

  /** Descriptors executed so far, under the names recordings use. */
  commandCounts(): Record<string, number> {
    const out: Record<string, number> = {};
    for (const [type, name] of INV_NAME.entries()) {
      const n = this.#queue.counts[type] ?? 0;
      if (n > 0) out[name] = n;
    }
    return out;
  }

  read(offset: number, size: number): number {
    const value = size === 4 && offset % 4 === 0 && offset < this.bytes ? this.#read32(offset) : 0;
    if (this.#tell !== null) {
      this.#tell({ what: 'reg.read', device: this.name, offset, size, value: BigInt(value) });
    }
    return value;
  }

  read64(offset: number, out: Int32Array): void {
    const ok = offset % 4 === 0 && offset + 8 <= this.bytes;
    out[0] = ok ? this.#read32(offset) : 0;
    out[1] = ok ? this.#read32(offset + 4) : 0;
    if (this.#tell !== null) {
      const value = (BigInt(out[1]! >>> 0) << 32n) | BigInt(out[0]! >>> 0);
      this.#tell({ what: 'reg.read', device: this.name, offset, size: 8, value });
    }
  }

  #read32(offset: number): number {
    if (this.shape.deviations.queueBaseLatched && (offset & ~4) === PAGE.IQA.at) {
      const base = this.#queue.base;
      if (offset !== PAGE.IQA.at) return Math.floor(base / 0x1_0000_0000);
      return ((base | (this.#regs.get(offset) & 0x807)) >>> 0) % 0x1_0000_0000;
    }
    return this.#regs.read32(offset);
  }

  write(offset: number, size: number, lo: number, hi: number): void {
    if (this.#tell !== null) {
      const value = (size === 8 ? BigInt(hi >>> 0) << 32n : 0n) | BigInt(lo >>> 0);
      this.#tell({ what: 'reg.write', device: this.name, offset, size, value });
    }
    // A wait descriptor can aim its status write at this very window; QEMU's re-entrancy guard drops that too.
    if (this.#busy || size < 4 || offset % 4 !== 0 || offset + size > this.bytes) return;
    this.#busy = true;
    const { controlLowOnly, effectOfFirst } = this.shape.deviations;
    const control = offset === PAGE.FECTL.at || offset === PAGE.IECTL.at || offset === PAGE.PECTL.at;
    const both = size === 8 && !(control && controlLowOnly);
    this.#regs.write32(offset, lo | 0);
    if (both) this.#regs.write32(offset + 4, hi | 0);
    this.#effect(offset);
    if (both && (!effectOfFirst || this.#isWide(offset))) this.#effect(offset + 4);
    this.#busy = false;
  }

  /** Whether a register of 8 bytes whose high word sets something in motion begins at `offset`. */
  #isWide(offset: number): boolean {
    if (offset === PAGE.CCMD.at || offset === PAGE.IOTLB.at || offset === PAGE.VCMD.at) return true;
    return offset >= FRO && offset < FRO + 16 * this.shape.records && (offset & 0xf) === 8;
  }

  /** What a write of the word at `offset` sets in motion; its masks are applied. */
  #effect(offset: number): void {
    switch (offset) {
      case PAGE.GCMD.at:
        this.#command(this.#regs.get(offset));
        return;
      case PAGE.CCMD.at + 4:
        this.#contextCommand();
        return;
      case PAGE.IOTLB.at + 4:
        this.#iotlbCommand();
        return;
      case PAGE.FSTS.at:
        this.faults.statusWritten();
        this.#queue.resume();
        return;
      case PAGE.FECTL.at:
        this.#faultEvent.unmasked();
        return;
      case PAGE.IQT.at:
        this.#queue.tailWritten();
        return;
      case PAGE.IQA.at:
        this.#queue.baseWritten();
        return;
      case PAGE.ICS.at:
        if ((this.#regs.get(offset) & 1) === 0) this.#completion.serviced();
        return;
      case PAGE.IECTL.at:
        this.#completion.unmasked();
        return;
      case PAGE.PRS.at:
        this.pageRequests.statusWritten();
        return;
      case PAGE.PECTL.at:
        if (this.shape.prs) this.#pageEvent.unmasked();
        return;
      case PAGE.VCMD.at + 4:
        this.virtualCommands?.written();
        return;
      default:
        if (offset >= FRO && offset < FRO + 16 * this.shape.records && (offset & 0xf) === 0xc) {
          this.faults.recordWritten();
        }
    }
  }

  /** GCMD (§11.4.4): TE, QIE, IRE and CFI are levels, the rest one-shots. */
  #command(value: number): void {
    const { props, deviations } = this.shape;
    const status = this.#regs.get(PAGE.GSTS.at);
    const changed = (status ^ value) & LEVELS;
    if ((changed & GCMD.TE) !== 0 && props.dmaTranslation) {
      this.root.on = (value & GCMD.TE) !== 0;
      this.#status(GCMD.TE, this.root.on);
      this.#backend.translationChanged();
    }
    if ((value & GCMD.SRTP) !== 0) this.#setRoot();
    if ((changed & GCMD.QIE) !== 0 && props.queuedInvalidation) {
      if ((value & GCMD.QIE) === 0) {
        if (this.#queue.disable()) this.#status(GCMD.QIE, false);
      } else {
        this.#status(GCMD.QIE, true);
        this.#queue.enable();
      }
    }
    if ((value & GCMD.SIRTP) !== 0) {
      this.remapper.setTable(this.#regs.get(PAGE.IRTA.at), this.#regs.get(PAGE.IRTA.at + 4));
      this.#status(GCMD.SIRTP, true);
    }
    if ((changed & GCMD.IRE) !== 0 && props.intremap) this.#status(GCMD.IRE, (value & GCMD.IRE) !== 0);
    if ((changed & GCMD.CFI) !== 0 && !deviations.cfiIgnored && props.intremap) {
      this.#status(GCMD.CFI, (value & GCMD.CFI) !== 0);
    }
    const now = this.#regs.get(PAGE.GSTS.at);
    this.remapper.set((now & GCMD.IRE) !== 0, (now & GCMD.CFI) !== 0);
    if ((now & (GCMD.TE | GCMD.IRE)) === 0) this.faults.idle();
  }

  #status(bit: number, on: boolean): void {
    const now = this.#regs.get(PAGE.GSTS.at);
    this.#regs.set(PAGE.GSTS.at, on ? now | bit : now & ~bit);
  }

  /** SRTP: address and mode are latched, every cache of the unit is emptied (ESRTPS). */
  #setRoot(): void {
    const lo = this.#regs.get(PAGE.RTADDR.at);
    const hi = this.#regs.get(PAGE.RTADDR.at + 4);
    this.root.base = pointer(lo, hi);
    this.root.high = hi & ~0xf_ffff;
    const ttm = (lo >>> 10) & 3;
    const { tableModeBitOnly } = this.shape.deviations;
    this.root.mode = !tableModeBitOnly ? ttm : this.shape.props.scalableMode ? ttm & 1 : TTM.LEGACY;
    this.#status(GCMD.SRTP, true);
    this.#backend.translationChanged();
  }

  /** Context-cache invalidation by register (§11.4.6.2). */
  #contextCommand(): void {
    const lo = this.#regs.get(PAGE.CCMD.at);
    const hi = this.#regs.get(PAGE.CCMD.at + 4);
    if ((hi & ICC) === 0) return;
    const refused = this.#registersRefused();
    if (refused && this.shape.deviations.refusedRequestHangs) return;
    const g = (hi >>> 29) & 3;
    let done = 0;
    if (!refused && g !== 0) {
      this.#backend.invalidateContext(g, lo & 0xffff, lo >>> 16, g === CONTEXT_G.DEVICE ? hi & 3 : 0);
      done = g === CONTEXT_G.DOMAIN && this.shape.deviations.contextDomainIsGlobal ? CONTEXT_G.GLOBAL : g;
    }
    this.#regs.set(PAGE.CCMD.at + 4, (hi & ~ICC & ~(3 << 27)) | (done << 27));
  }

  /** IOTLB invalidation by register (§11.4.6.3). */
  #iotlbCommand(): void {
    const hi = this.#regs.get(PAGE.IOTLB.at + 4);
    if ((hi & ICC) === 0) return;
    const refused = this.#registersRefused();
    if (refused && this.shape.deviations.refusedRequestHangs) return;
    const g = (hi >>> 28) & 3;
    const iva = this.#regs.get(PAGE.IVA.at);
    const am = inv.am(iva);
    let done = 0;
    if (!refused && g !== 0 && !(g === IOTLB_G.PAGE && am > this.shape.mamv)) {
      this.#backend.invalidateIotlb(g, hi & 0xffff, inv.page(iva, this.#regs.get(PAGE.IVA.at + 4)), am);
      done = g;
    }
    this.#regs.set(PAGE.IOTLB.at + 4, (hi & ~ICC & ~(3 << 25)) | (done << 25));
  }

  /** Register-based invalidation belongs to legacy mode with the queue off (§6.5.1). */
  #registersRefused(): boolean {
    const { tableModeBitOnly } = this.shape.deviations;
    return this.#queue.enabled || (!tableModeBitOnly && this.root.mode !== TTM.LEGACY);
  }

  /** A device-TLB invalidation of `sid` timed out: ITE, and waits in flight are aborted. */
  deviceTlbTimeout(sid: number): void {
    if (this.shape.deviations.noQueueErrorRecord) {
      this.deviceTlbDone();
      return;
    }
    this.#queue.abortWaits();
    this.faults.timeout(sid);
  }

  /** Outstanding device-TLB completions are in. */
  deviceTlbDone(): void {
    this.#queue.drained();
  }

  /** Power-on state. */
  reset(): void {
    this.#regs.reset();
    this.#queue.reset();
    this.faults.reset();
    this.remapper.reset();
    this.virtualCommands?.reset();
    this.root.on = false;
    this.root.base = this.root.high = 0;
    this.root.mode = TTM.LEGACY;
    this.#backend.translationChanged();
  }

  save(): UnitState {
    return {
      regs: this.#regs.save(),
      queue: this.#queue.save(),
      faults: this.faults.save(),
      remapper: this.remapper.save(),
      root: { ...this.root },
      pasids: this.virtualCommands?.save() ?? [],
    };
  }

  /** The backend takes its own state; what it holds for streams is made anew on first use. */
  load(s: UnitState): void {
    this.#regs.load(s.regs);
    this.#queue.load(s.queue);
    this.faults.load(s.faults);
    this.remapper.load(s.remapper);
    Object.assign(this.root, s.root);
    this.virtualCommands?.load(s.pasids);
    this.#backend.translationChanged();
  }
}
