import { ViommuError } from '../../src/core/errors.ts';
import { loadOrReturn } from '../../src/lib/saved/load-or-return.ts';
import type { MmioDevice } from '../../src/ports/mmio.ts';
import type { UpcallHandlers } from '../../src/ports/upcalls.ts';
import { GCMD, PAGE, TTM } from '../../src/spec/vtd/registers.ts';
import { VtdCommands } from './commands.ts';
import { type VtdCore, vtdCore } from './core.ts';
import type { VtdDeps, VtdFunction } from './deps.ts';
import { VtdDomains } from './domains.ts';
import { VtdFaults } from './faults.ts';
import { InterruptRemapper, type VtdInterruptPort } from './interrupt-remapper.ts';
import { GuestLookup } from './lookup.ts';
import { VtdPageRequests } from './page-requests.ts';
import type { VtdDeviations } from './profile.ts';
import { VtdQueue } from './queue.ts';
import { VtdRecords } from './records.ts';
import { RegisterInvalidation } from './register-invalidation.ts';
import type { VtdRegisters } from './registers.ts';
import { checkVtdState, loadVtd, saveVtd, withoutShortage } from './state.ts';
import type { VtdState } from './state-form.ts';
import { VtdStreams } from './streams.ts';
import { VtdSwitch } from './switch.ts';
import { vtdUpcalls } from './upcalls.ts';
import { VirtualCommands } from './virtual-commands.ts';
import { Waits } from './waits.ts';

/**
 * The guest-visible VT-d unit: registers, the invalidation queue, interrupt remapping and page requests in front, iommufd verbs
 * behind. It never translates; the physical IOMMU does, as the host objects this device makes tell it to.
 */
export class Vtd implements MmioDevice {
  readonly name: string;
  /** Bytes of the register window. */
  readonly bytes: number;
  /** The rows of the profile's table, single ones changed as the owner asked. */
  readonly deviations: VtdDeviations;
  /** Decides every interrupt message of a function and every entry of an IOAPIC. */
  readonly interrupts: VtdInterruptPort;
  /** @internal What the guest's own tables say now about an address; for listings and for replay. */
  readonly lookup: GuestLookup;
  readonly #core: VtdCore;
  readonly #remapper: InterruptRemapper;
  readonly #regs: VtdRegisters;
  readonly #records: VtdRecords;
  readonly #domains: VtdDomains;
  readonly #streams: VtdStreams;
  readonly #switch: VtdSwitch;
  readonly #faults: VtdFaults;
  readonly #pageRequests: VtdPageRequests;
  readonly #virtualCommands: VirtualCommands | null;
  readonly #waits: Waits;
  readonly #commands: VtdCommands;
  readonly #queue: VtdQueue;
  readonly #registerInvalidation: RegisterInvalidation;
  readonly #handlers: UpcallHandlers;
  readonly #drained = () => {
    this.#streams.forgetGone();
    this.#queue.drained();
  };

  /** @throws ViommuError `E_PROFILE` properties that do not go together; `EINVAL` a deviation that is not there. */
  constructor(deps: VtdDeps) {
    const core = vtdCore(deps);
    this.name = core.name;
    this.bytes = core.registers.bytes;
    this.deviations = core.deviations;
    this.#core = core;
    this.#regs = core.registers;
    this.#records = new VtdRecords(core);
    this.#remapper = new InterruptRemapper(core, this.#records);
    this.interrupts = this.#remapper;
    this.lookup = new GuestLookup(core);
    this.#domains = new VtdDomains(core);
    this.#streams = new VtdStreams(core, this.#domains);
    this.#switch = new VtdSwitch(core, this.#streams);
    this.#faults = new VtdFaults(core, this.#records);
    this.#streams.onLost = (rid, pasid) => this.#faults.lost(rid, pasid);
    this.#pageRequests = new VtdPageRequests(core, this.#streams, this.#faults);
    this.#handlers = vtdUpcalls({
      quotas: core.quotas,
      streams: this.#streams,
      faults: this.#faults,
      pageRequests: this.#pageRequests,
      timedOut: (rid) => this.#deviceTlbTimeout(rid),
      unexpected: (rid) => {
        if (!this.deviations.noQueueErrorRecord) this.#records.unexpectedCompletion(rid);
      },
      drained: () => (deps.alone === undefined ? this.#drained() : deps.alone(this.#drained)),
    });
    core.confirm.handlers = this.#handlers;
    this.#virtualCommands = core.identity.virtualCommands
      ? new VirtualCommands(core, (pasid) => core.refusals.note('freed PASID', this.#streams.pasidFreed(pasid)))
      : null;
    this.#waits = new Waits(core, () => deps.upcalls?.outstanding(this.#handlers) ?? 0);
    this.#commands = new VtdCommands({
      core,
      streams: this.#streams,
      domains: this.#domains,
      remapper: this.#remapper,
      pageRequests: this.#pageRequests,
      waits: this.#waits,
      timedOut: (sid) => this.#deviceTlbTimeout(sid),
    });
    const held = () => this.#switch.going;
    const behind = () => held() || this.#registerInvalidation.busy;
    this.#queue = new VtdQueue(core, this.#records, this.#commands, this.#waits, behind);
    this.#registerInvalidation = new RegisterInvalidation(core, this.#commands, this.#queue, this.#streams, held);
    core.work.go = () => this.#goOn();
  }

  /**
   * Plugs a function in, also while the guest runs. Its VFIO device is bound.
   * @returns unplugs it; close the VFIO device afterwards. With the last one every host object of this unit goes.
   * @throws ViommuError `EEXIST` a requester id is taken; `EINVAL` a slice or global mode without a PASID space.
   */
  addDevice(f: VtdFunction): () => void {
    const streams = this.#streams.add(f, this.#handlers);
    return () => {
      this.#streams.remove(streams);
      if ((this.#core.deps.upcalls?.outstanding(this.#handlers) ?? 0) === 0) this.#streams.forgetGone();
    };
  }

  /**
   * Guest memory is about to go (hot-unplug): nothing of it may stay in what the host repeats of the guest's second stages.
   * @throws ViommuError `EIO` the host refuses to take a piece of it away.
   */
  forget(gpa: number, bytes: number): void {
    for (const shadow of this.#domains.holding) {
      const r = shadow.forget(gpa, bytes);
      if (r < 0) throw new ViommuError('EIO', 'host', 'guest memory stays mapped for a device', { gpa, result: r });
    }
  }

  /** @internal The streams with what each of their PASIDs is attached to, for listings and tests. */
  get streams(): VtdStreams['list'] {
    return this.#streams.list;
  }

  /** What every (device, PASID) is attached to now, for listings and tests. */
  attachments(): readonly { rid: number; pasid: number; key: string; hwptId: number }[] {
    return this.#streams.attachments();
  }

  /**
   * Host PASIDs a guest PASID of a function is attached under: itself; itself and its global twin (what ENQCMD carries);
   * or the real one of a slice (what the device's PASID register must get). Empty while it is not set up.
   */
  hostPasids(rid: number, pasid: number): readonly number[] {
    return this.#streams.byRid(rid)?.slots.get(pasid)?.host ?? [];
  }

  /** The host PASID behind a slice's, which is set up now if the guest's tables have it; -1: they have not, or none is free. */
  usePasid(rid: number, pasid: number): number {
    return this.hostPasids(rid, pasid)[0] ?? this.#streams.usePasid(rid, pasid);
  }

  /** A request of a slice was not sent, since its PASID is not set up: the guest finds the fault that its tables say. */
  requestRefused(rid: number, pasid: number, lo: number, hi: number, access: number): void {
    const configuration = this.#streams.byRid(rid)?.slots.get(pasid)?.configuration ?? null;
    this.#faults.unsent(rid, pasid, configuration, lo, hi, access);
  }

  /** Gives back every PASID of the host's pool that its functions have. */
  releasePasids(): void {
    this.#streams.releasePasids();
  }

  /** The guest's name of a host PASID of a function (NO_PASID: none), or -2 when it is not this function's. */
  guestPasid(rid: number, host: number): number {
    return this.#streams.byRid(rid)?.mode.toGuest(host) ?? -2;
  }

  /** Descriptors executed so far, under the names recordings use. */
  commandCounts(): Record<string, number> {
    return this.#queue.counts();
  }

  /** How often the host refused something without the guest being told, by what the device was doing. */
  get refusals(): ReadonlyMap<string, number> {
    return this.#core.refusals.counts;
  }

  read(offset: number, size: number): number {
    this.#core.work.occasion();
    this.#switch.goOn();
    const value = size === 4 && offset % 4 === 0 && offset < this.bytes ? this.#read32(offset) : 0;
    const { tell } = this.#core.deps;
    if (tell !== null) tell({ what: 'reg.read', device: this.name, offset, size, value: BigInt(value) });
    return value;
  }

  read64(offset: number, out: Int32Array): void {
    this.#core.work.occasion();
    this.#switch.goOn();
    const ok = offset % 4 === 0 && offset + 8 <= this.bytes;
    out[0] = ok ? this.#read32(offset) : 0;
    out[1] = ok ? this.#read32(offset + 4) : 0;
    const { tell } = this.#core.deps;
    if (tell !== null) {
      const value = (BigInt(out[1]! >>> 0) << 32n) | BigInt(out[0]! >>> 0);
      tell({ what: 'reg.read', device: this.name, offset, size: 8, value });
    }
  }

  #read32(offset: number): number {
    if (this.deviations.queueBaseLatched && (offset & ~4) === PAGE.IQA.at) {
      const { base } = this.#queue;
      if (offset !== PAGE.IQA.at) return Math.floor(base / 0x1_0000_0000);
      return ((base | (this.#regs.get(offset) & 0x807)) >>> 0) % 0x1_0000_0000;
    }
    return this.#regs.read(offset);
  }

  write(offset: number, size: number, lo: number, hi: number): void {
    const { tell } = this.#core.deps;
    if (tell !== null) {
      const value = (size === 8 ? BigInt(hi >>> 0) << 32n : 0n) | BigInt(lo >>> 0);
      tell({ what: 'reg.write', device: this.name, offset, size, value });
    }
    if (size < 4 || offset % 4 !== 0 || offset + size > this.bytes) return;
    const { controlLowOnly, effectOfFirst } = this.deviations;
    const control = offset === PAGE.FECTL.at || offset === PAGE.IECTL.at || offset === PAGE.PECTL.at;
    const both = size === 8 && !(control && controlLowOnly);
    this.#core.work.begin();
    this.#regs.write(offset, lo | 0);
    if (both) this.#regs.write(offset + 4, hi | 0);
    this.#effect(offset);
    if (both && (!effectOfFirst || this.#regs.actsWithHighWord(offset))) this.#effect(offset + 4);
  }

  /** What a write of the word at `offset` sets in motion; its masks are applied. */
  #effect(offset: number): void {
    const { interrupts } = this.#core;
    switch (offset) {
      case PAGE.GCMD.at:
        this.#command(this.#regs.get(offset));
        return;
      case PAGE.CCMD.at + 4:
        this.#registerInvalidation.context();
        return;
      case PAGE.IOTLB.at + 4:
        this.#registerInvalidation.iotlb();
        return;
      case PAGE.FSTS.at:
        this.#records.statusWritten();
        this.#queue.resume();
        return;
      case PAGE.FECTL.at:
        interrupts.fault.unmasked();
        return;
      case PAGE.IQT.at:
        this.#queue.tailWritten();
        return;
      case PAGE.IQA.at:
        this.#queue.baseWritten();
        return;
      case PAGE.ICS.at:
        if ((this.#regs.get(offset) & 1) === 0) interrupts.completion.serviced();
        return;
      case PAGE.IECTL.at:
        interrupts.completion.unmasked();
        return;
      case PAGE.PRS.at:
        this.#pageRequests.queue.statusWritten();
        return;
      case PAGE.PECTL.at:
        if (this.#core.features.pageRequests) interrupts.pageRequest.unmasked();
        return;
      case PAGE.VCMD.at + 4:
        this.#virtualCommands?.written();
        return;
      default:
        if (this.#regs.isRecord(offset) && (offset & 0xf) === 0xc) this.#records.recordWritten();
    }
  }

  /** GCMD (§11.4.4): TE, QIE, IRE and CFI are levels, the rest one-shots. */
  #command(value: number): void {
    const regs = this.#regs;
    const { properties } = this.#core.deps;
    if (properties.dmaTranslation) this.#switch.translation((value & GCMD.TE) !== 0);
    if ((value & GCMD.SRTP) !== 0) this.#switch.rootTable();
    if (properties.queuedInvalidation) this.#queue.command((value & GCMD.QIE) !== 0);
    if ((value & GCMD.SIRTP) !== 0) {
      this.#remapper.setTable(regs.get(PAGE.IRTA.at), regs.get(PAGE.IRTA.at + 4));
      regs.setStatus(GCMD.SIRTP, true);
    }
    if (properties.intremap) {
      const levels = this.deviations.cfiIgnored ? GCMD.IRE : GCMD.IRE | GCMD.CFI;
      regs.setStatus(levels & value, true);
      regs.setStatus(levels & ~value, false);
    }
    const now = regs.get(PAGE.GSTS.at);
    this.#remapper.set((now & GCMD.IRE) !== 0, (now & GCMD.CFI) !== 0);
    if ((now & (GCMD.TE | GCMD.IRE)) === 0) this.#records.idle();
  }

  /** An occasion for what one access could not do: a switch first, since descriptors behind it are about its tables. */
  #goOn(): void {
    const { work } = this.#core;
    if (!this.#switch.nextPart() || !this.#registerInvalidation.goOn()) return;
    this.#queue.goOn();
    if (work.waiting) return;
    // What nobody uses any more goes on going.
    work.operation();
    this.#core.refusals.note('undoing', this.#domains.goOn());
    if (work.unfinished) work.pause();
  }

  /** A device-TLB invalidation of `rid` timed out: ITE, and the waits fetched so far are aborted (§6.5.2.11). */
  #deviceTlbTimeout(rid: number): void {
    if (this.deviations.noQueueErrorRecord) {
      this.#queue.drained();
      return;
    }
    this.#waits.clear();
    this.#records.timeout(rid);
  }

  /** Power-on state, after all DMA has come to rest. No wait of the next driver waits for what this one has sent. */
  reset(): void {
    const { root } = this.#core;
    this.#queue.reset();
    root.on = false;
    root.base = 0;
    root.mode = TTM.LEGACY;
    this.#streams.reset();
    this.#core.refusals.note('switch of translation', this.#switch.replaced());
    this.#abandon();
    this.#regs.reset();
    this.#records.reset();
    this.#remapper.reset();
    this.#virtualCommands?.reset();
  }

  /** Plain data, also in the middle of a queue. */
  save(): VtdState {
    const state = saveVtd(this.#parts());
    const regs = state.regs.map((word, i) => (4 * i === PAGE.GSTS.at ? this.#switch.settled(word) : word));
    return { ...state, regs };
  }

  /**
   * Load guest memory and the host first. Host objects are made anew, and streams are set up on first use.
   * @throws ViommuError `EINVAL` see `checkState`, or other functions are plugged in; `E_VERSION`; `EIO` the host
   *   refuses; nothing is changed. @param anyway what the host refuses is left to the first use.
   */
  load(state: VtdState, anyway = false): void {
    this.checkState(state);
    const load = (s: VtdState, left: boolean) => this.#load(s, left);
    if (anyway) load(state, true);
    else loadOrReturn(() => this.save(), load, state);
  }

  #load(state: VtdState, anyway: boolean): void {
    this.#abandon();
    loadVtd(this.#parts(), state);
    this.#core.refusals.note('switch of translation', withoutShortage(this.#switch.replaced(), anyway));
  }

  /**
   * Whether `load` would take a state.
   * @throws ViommuError `EINVAL` it is of another kind of device, of one with other properties, or damaged; `E_VERSION` it was
   *   saved by another version.
   */
  checkState(state: unknown): VtdState {
    return checkVtdState(this.#parts(), state);
  }

  /** Nothing of before is asked or to be answered any more. */
  #abandon(): void {
    this.#registerInvalidation.reset();
    this.#commands.reset();
    this.#pageRequests.reset();
    this.#core.deps.upcalls?.abandon?.(this.#handlers);
    this.#streams.forgetGone();
  }

  #parts() {
    return {
      core: this.#core,
      streams: this.#streams,
      regs: this.#regs,
      root: this.#core.root,
      queue: this.#queue,
      records: this.#records,
      remapper: this.#remapper,
      virtualCommands: this.#virtualCommands,
    };
  }
}
