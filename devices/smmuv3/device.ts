import { ViommuError } from '../../src/core/errors.ts';
import { WorkBudget } from '../../src/lib/access/work-budget.ts';
import { smmuv3Features } from '../../src/lib/check/smmuv3-features.ts';
import { MACHINE_LIMITS, machineQuotas } from '../../src/lib/limits/machine-limits.ts';
import { loadOrReturn } from '../../src/lib/saved/load-or-return.ts';
import { HostConfirm } from '../../src/lib/uapi/host-confirm.ts';
import { HostVerbs } from '../../src/lib/uapi/host-verbs.ts';
import { HostRefusals } from '../../src/lib/uapi/refusals.ts';
import type { MmioDevice } from '../../src/ports/mmio.ts';
import type { UpcallHandlers } from '../../src/ports/upcalls.ts';
import { CR0, GBPA, GERROR, PAGE0, PAGE1, WINDOW_BYTES } from '../../src/spec/smmuv3/registers.ts';
import { CommandBatch } from './batch.ts';
import { Smmuv3Commands } from './commands.ts';
import type { Smmuv3Core } from './core.ts';
import type { AttachedDevice, Smmuv3Deps } from './deps.ts';
import { Smmuv3Domains } from './domains.ts';
import { Smmuv3Faults } from './faults.ts';
import { smmuv3Identity } from './identity.ts';
import { Smmuv3Interrupts } from './interrupts.ts';
import { Smmuv3PageRequests } from './page-requests.ts';
import { type Smmuv3Deviations, smmuv3Deviations } from './profile.ts';
import { checkSmmuv3Properties } from './properties.ts';
import { Smmuv3Queue } from './queue.ts';
import { Smmuv3Records } from './records.ts';
import { Smmuv3Registers } from './registers.ts';
import { Smmuv3Stalls } from './stalls.ts';
import { checkSmmuv3State, loadSmmuv3, saveSmmuv3 } from './state.ts';
import type { Smmuv3State } from './state-form.ts';
import { Smmuv3Streams } from './streams.ts';
import { Smmuv3Switch } from './switch.ts';
import { Smmuv3Tables } from './tables.ts';
import { smmuv3Upcalls } from './upcalls.ts';
import { listenForEvents } from './virtual-events.ts';

/**
 * The guest-visible SMMUv3: registers and queues in front, iommufd verbs behind. It never translates; the physical IOMMU
 * does, as the host objects this device makes tell it to.
 */
export class Smmuv3 implements MmioDevice {
  readonly name: string;
  readonly bytes = WINDOW_BYTES;
  /** The rows of the profile's table, single ones changed as the owner asked. */
  readonly deviations: Smmuv3Deviations;
  readonly #core: Smmuv3Core;
  readonly #deps: Smmuv3Deps;
  readonly #regs: Smmuv3Registers;
  readonly #interrupts: Smmuv3Interrupts;
  readonly #records: Smmuv3Records;
  readonly #queue: Smmuv3Queue;
  readonly #commands: Smmuv3Commands;
  readonly #tables: Smmuv3Tables;
  readonly #streams: Smmuv3Streams;
  readonly #switch: Smmuv3Switch;
  readonly #domains: Smmuv3Domains;
  readonly #stalls: Smmuv3Stalls;
  readonly #pageRequests: Smmuv3PageRequests;
  readonly #batch: CommandBatch;
  readonly #handlers: UpcallHandlers;
  readonly #drained = () => this.#queue.drained();

  /**
   * @throws ViommuError `E_PROFILE` a property has a value it cannot have, or two do not go together; `EINVAL` for a
   *   deviation that is not there.
   */
  constructor(deps: Smmuv3Deps) {
    this.name = deps.name ?? 'smmuv3';
    const core = coreOf(deps, this.name);
    this.#core = core;
    this.#deps = deps;
    this.deviations = core.deviations;
    this.#regs = core.registers;
    this.#interrupts = core.interrupts;
    this.#records = new Smmuv3Records(core);
    this.#tables = new Smmuv3Tables(core);
    this.#domains = new Smmuv3Domains(core);
    this.#streams = new Smmuv3Streams(core, this.#domains, this.#tables);
    this.#switch = new Smmuv3Switch(core, this.#streams);
    const faults = new Smmuv3Faults(core, this.#tables);
    this.#stalls = new Smmuv3Stalls({ core, faults, records: this.#records });
    this.#streams.onLost = (sid, contradicts) => {
      faults.lost(sid, contradicts);
      this.#records.record(faults.record, false);
    };
    this.#pageRequests = new Smmuv3PageRequests(core, this.#tables);
    this.#handlers = smmuv3Upcalls({
      core,
      streams: this.#streams,
      faults,
      records: this.#records,
      pageRequests: this.#pageRequests,
      stalls: this.#stalls,
      timedOut: () => {
        this.#commands.timedOut = true;
      },
      drained: () => (deps.alone === undefined ? this.#queue.drained() : deps.alone(this.#drained)),
    });
    core.confirm.handlers = this.#handlers;
    this.#batch = new CommandBatch(core.host, deps.trustPartialCount === true);
    this.#commands = new Smmuv3Commands({
      core,
      streams: this.#streams,
      domains: this.#domains,
      batch: this.#batch,
      stalls: this.#stalls,
      pageRequests: this.#pageRequests,
      handlers: this.#handlers,
    });
    this.#queue = new Smmuv3Queue(core, this.#commands, () => this.#switch.going);
    core.work.go = () => {
      if (this.#switch.nextPart()) this.#queue.run();
    };
    if (deps.upcalls === null) {
      this.#domains.onViommu = (domain) => this.#listenVirtual(domain.viommuId > 0 ? [domain] : []);
    }
  }

  /** linux-only: events come through the kernel's queue, one per vIOMMU, once the guest has its own. */
  #listenVirtual(domains = this.#domains.all): void {
    if (this.#deps.upcalls !== null || !this.#regs.enabled(CR0.EVENTQEN)) return;
    const depth = 2 ** Math.min(this.#regs.get(PAGE0.EVENTQ_BASE.at) & 31, 12);
    for (const domain of domains) {
      if (domain.viommuId === 0 || domain.eventFd !== null) continue;
      const opened = listenForEvents(this.#core.host, domain, depth, (e) => this.#records.record(e, false));
      this.#core.refusals.note('event queue', opened);
    }
  }

  /**
   * Plugs a device in, also while the guest runs.
   * @returns unplugs it; with the last one every host object of this vSMMU goes.
   * @throws ViommuError `EINVAL` no StreamID, `EBUSY` a StreamID is taken, `EIO` the host refuses the device, `EOPNOTSUPP`
   *   its SMMU lacks something the guest is shown.
   */
  addDevice(device: AttachedDevice): () => void {
    const d = this.#streams.add(device, this.#handlers);
    return () => {
      for (const s of d.streams) {
        this.#stalls.terminate(s);
        this.#pageRequests.forget(s.sid);
      }
      this.#streams.remove(d);
    };
  }

  /**
   * log2 bytes of the guest's own stage-2 leaf behind what the host's copy holds for `ipa` of a stream; 0: no copy, or
   * nothing there. For listings and for replay.
   * @internal
   */
  shadowLeaf(sid: number, ipa: number): number {
    return this.#streams.bySid(sid)?.shadow?.leafShift(ipa) ?? 0;
  }

  /**
   * Guest memory is about to go (hot-unplug): nothing of it may stay in what the host repeats of the guest's stage 2s.
   * @throws ViommuError `EIO` the host refuses to take a piece of it away.
   */
  forget(gpa: number, bytes: number): void {
    for (const domain of this.#domains.all) {
      const r = domain.shadow?.forget(gpa, bytes) ?? 0;
      if (r < 0) throw new ViommuError('EIO', 'host', 'guest memory stays mapped for a device', { gpa, result: r });
    }
  }

  /** See `Smmuv3Streams.bypasses`. */
  bypasses(sid: number): boolean {
    return this.#streams.bypasses(sid);
  }

  /** @internal How often the host refused something that no command of the guest answers for. */
  get refusals(): Smmuv3Core['refusals']['counts'] {
    return this.#core.refusals.counts;
  }

  /** @internal The streams with their states, for listings and tests. */
  get streams(): Smmuv3Streams['list'] {
    return this.#streams.list;
  }

  /** @internal Stage 2s and what stands on them, for listings and tests. */
  get domains(): Smmuv3Domains['all'] {
    return this.#domains.all;
  }

  read(offset: number, size: number): number {
    this.#core.work.occasion();
    this.#switch.goOn();
    const at = this.#regs.decode(offset, size, false);
    const value = at < 0 ? 0 : this.#regs.read(at);
    if (this.#deps.tell !== null) {
      this.#deps.tell({ what: 'reg.read', device: this.name, offset, size, value: BigInt(value) });
    }
    return value;
  }

  read64(offset: number, out: Int32Array): void {
    this.#core.work.occasion();
    this.#switch.goOn();
    const at = this.#regs.decode(offset, 8, false);
    out[0] = at < 0 ? 0 : this.#regs.read(at);
    out[1] = at < 0 ? 0 : this.#regs.read(at + 4);
    if (this.#deps.tell !== null) {
      const value = BigInt.asUintN(64, (BigInt(out[1]!) << 32n) | BigInt(out[0]! >>> 0));
      this.#deps.tell({ what: 'reg.read', device: this.name, offset, size: 8, value });
    }
  }

  write(offset: number, size: number, lo: number, hi: number): void {
    const at = this.#regs.decode(offset, size, true);
    this.#core.work.begin();
    if (at >= 0) {
      this.#write32(at, lo | 0);
      if (size === 8) this.#write32(at + 4, hi | 0);
    }
    if (this.#deps.tell !== null) {
      const high = size === 8 ? BigInt(hi >>> 0) << 32n : 0n;
      const value = high | BigInt(size < 4 ? lo & (2 ** (8 * size) - 1) : lo >>> 0);
      this.#deps.tell({ what: 'reg.write', device: this.name, offset, size, value });
    }
  }

  #write32(at: number, value: number): void {
    const before = this.#regs.get(at);
    this.#regs.write(at, value);
    this.#effect(at, before, value);
  }

  /**
   * What a write of the word at `at` sets in motion; its masks are applied.
   * @param before the word it replaced. @param written what the guest wrote.
   */
  #effect(at: number, before: number, written: number): void {
    const regs = this.#regs;
    switch (at) {
      case PAGE0.CR0.at:
        this.#control(before);
        return;
      case PAGE0.GBPA.at:
        this.#globalBypass(written);
        return;
      case PAGE0.IRQ_CTRL.at:
        regs.set(PAGE0.IRQ_CTRLACK.at, regs.get(at));
        return;
      case PAGE0.GERRORN.at:
        this.#queue.acknowledged();
        if (!this.#interrupts.active(GERROR.EVENTQ_ABT_ERR)) this.#stalls.roomMade();
        this.#queue.run();
        return;
      case PAGE0.STRTAB_BASE_CFG.at:
        this.#tables.configured();
        return;
      case PAGE0.CMDQ_PROD.at:
        this.#queue.run();
        return;
      case PAGE1.EVENTQ_CONS.at:
        this.#stalls.roomMade();
    }
  }

  /** CR0: everything it enables is enabled at once, and CR0ACK says so (IHI 0070 §6.3.9; SMMUEN: `Smmuv3Switch`). */
  #control(before: number): void {
    const regs = this.#regs;
    const now = regs.get(PAGE0.CR0.at);
    const enabled = regs.get(PAGE0.CR0ACK.at) & CR0.SMMUEN;
    regs.set(PAGE0.CR0ACK.at, (regs.cr0Ack(now) & ~CR0.SMMUEN) | enabled);
    if ((before & ~now & CR0.SMMUEN) !== 0) this.#stalls.terminateAll(this.#streams.list);
    this.#switch.written(before);
    if ((before & ~now & CR0.CMDQEN) !== 0) this.#commands.restart();
    if ((~before & now & CR0.EVENTQEN) !== 0) {
      this.#listenVirtual();
      this.#stalls.roomMade();
    }
    this.#queue.run();
  }

  /** GBPA changes only with UPDATE, which reads 0 again at once (IHI 0070 §6.3.14). */
  #globalBypass(value: number): void {
    if ((value & GBPA.UPDATE) === 0) return;
    const mask = this.deviations.rawGbpa ? ~GBPA.UPDATE : Number(PAGE0.GBPA.rw);
    this.#regs.set(PAGE0.GBPA.at, value & mask);
    this.#switch.bypassWritten();
  }

  /** Machine reset, after all DMA has come to rest. */
  reset(): void {
    this.#stalls.terminateAll(this.#streams.list);
    this.#batch.drop();
    this.#deps.upcalls?.abandon?.(this.#handlers);
    this.#pageRequests.forget();
    this.#commands.reset();
    this.#streams.forget();
    this.#queue.reset();
    this.#records.reset();
    this.#tables.reset();
    this.#regs.reset();
    this.#switch.reset();
  }

  /** Plain data, also in the middle of a command queue. */
  save(): Smmuv3State {
    while (this.#core.work.waiting) this.#core.work.resume();
    const state = saveSmmuv3(this.#parts());
    return { ...state, registers: state.registers.map((word, i) => this.#switch.settled(4 * i, word)) };
  }

  /**
   * Takes the state of a device with the same devices plugged in; guest memory is as it was then. Host objects are made
   * anew, nothing that was cached before counts, and transactions that were stalled elsewhere are gone.
   * @throws ViommuError `EINVAL` see `checkState`, or other functions are plugged in; `E_VERSION`; `EIO` the host
   *   refuses; nothing is changed. @param anyway what the host refuses is left to the first use.
   */
  load(state: Smmuv3State, anyway = false): void {
    this.checkState(state);
    if (anyway) this.#load(state, true);
    else
      loadOrReturn(
        () => this.save(),
        (s, left) => this.#load(s, left),
        state,
      );
  }

  #load(state: Smmuv3State, anyway: boolean): void {
    this.#stalls.terminateAll(this.#streams.list);
    this.#batch.drop();
    this.#deps.upcalls?.abandon?.(this.#handlers);
    this.#pageRequests.forget();
    this.#commands.reset();
    loadSmmuv3(this.#parts(), state, anyway);
    this.#switch.loaded();
    this.#commands.forgetAll();
  }

  /**
   * Whether `load` would take a state.
   * @throws ViommuError `EINVAL` it is of another kind of device, of one with other properties, or damaged; `E_VERSION` it was
   *   saved by another version.
   */
  checkState(state: unknown): Smmuv3State {
    return checkSmmuv3State(this.#parts(), state);
  }

  #parts() {
    return {
      core: this.#core,
      regs: this.#regs,
      records: this.#records,
      queue: this.#queue,
      commands: this.#commands,
      tables: this.#tables,
      streams: this.#streams,
    };
  }
}

/** What the properties and the profile make of a vSMMUv3, before it has any state. */
function coreOf(deps: Smmuv3Deps, name: string): Smmuv3Core {
  const properties = checkSmmuv3Properties(deps.properties);
  const deviations = smmuv3Deviations(properties.profile, deps.deviations);
  const identity = smmuv3Identity(properties, deviations);
  const registers = new Smmuv3Registers(identity, deviations);
  const work = new WorkBudget(deps.later ?? null, deps.inner);
  return {
    name,
    deps,
    deviations,
    identity,
    features: smmuv3Features(identity.idr0, identity.idr1, identity.idr3, identity.idr5),
    registers,
    interrupts: new Smmuv3Interrupts(registers, deps, name),
    host: new HostVerbs(deps.iommufd, (units) => work.spend(units)),
    confirm: new HostConfirm(deps.upcalls),
    quotas: deps.quotas ?? machineQuotas(MACHINE_LIMITS),
    work,
    refusals: new HostRefusals(),
  };
}
