import { ViommuError } from '../../src/core/errors.ts';
import { smmuv3Features } from '../../src/lib/check/smmuv3-features.ts';
import { HostVerbs } from '../../src/lib/uapi/host-verbs.ts';
import { HW_ERROR } from '../../src/ports/hw.ts';
import type { MmioDevice } from '../../src/ports/mmio.ts';
import type { UpcallHandlers } from '../../src/ports/upcalls.ts';
import { EVENT_WORDS, evSsid, evSsv, evStag, evStall } from '../../src/spec/smmuv3/events.ts';
import { CR0, GBPA, GERROR, PAGE0, PAGE1, WINDOW_BYTES } from '../../src/spec/smmuv3/registers.ts';
import { Batch } from './batch.ts';
import { Commands } from './commands.ts';
import type { AttachedDevice, Smmuv3Deps } from './deps.ts';
import { Domains } from './domains.ts';
import { Faults } from './faults.ts';
import { identityOf } from './identity.ts';
import { Signals } from './interrupts.ts';
import { PageRequests } from './page-requests.ts';
import { type Deviations, deviationsOf } from './profile.ts';
import { CommandQueue } from './queue.ts';
import { EventQueue } from './records.ts';
import { Registers } from './registers.ts';
import { Stalls } from './stalls.ts';
import { type DeviceState, loadDevice, saveDevice } from './state.ts';
import { Streams } from './streams.ts';
import { StreamTable } from './tables.ts';
import { listenForEvents } from './virtual-events.ts';

/**
 * The guest-visible SMMUv3: registers and queues in front, iommufd verbs behind. It never translates; the physical IOMMU
 * does, as the host objects this device makes tell it to.
 */
export class Smmuv3 implements MmioDevice {
  readonly name: string;
  readonly bytes = WINDOW_BYTES;
  readonly deviations: Deviations;
  readonly #deps: Smmuv3Deps;
  readonly #host: HostVerbs;
  readonly #regs: Registers;
  readonly #signals: Signals;
  readonly #events: EventQueue;
  readonly #queue: CommandQueue;
  readonly #commands: Commands;
  readonly #table: StreamTable;
  readonly #streams: Streams;
  readonly #domains: Domains;
  readonly #faults: Faults;
  readonly #pri: PageRequests;
  readonly #stalls: Stalls;
  readonly #batch: Batch;
  readonly #handlers: UpcallHandlers;

  constructor(deps: Smmuv3Deps) {
    this.#deps = deps;
    this.name = deps.name ?? 'smmuv3';
    const d = deviationsOf(deps.properties.profile, deps.deviations);
    this.deviations = d;
    const id = identityOf(deps.properties, d);
    const features = smmuv3Features(id.idr0, id.idr1, id.idr3, id.idr5);
    const host = new HostVerbs(deps.iommufd);
    this.#host = host;
    const regs = new Registers(id, d);
    const signals = new Signals(regs, deps.irq, deps.tell, this.name);
    this.#regs = regs;
    this.#signals = signals;
    this.#events = new EventQueue(regs, deps.memory, signals, d, deps.tell, this.name);
    this.#table = new StreamTable(regs, deps.memory, features, d);
    this.#domains = new Domains(deps, host, features, d);
    this.#streams = new Streams(deps, host, this.#domains, this.#table, regs, features, id, d);
    this.#faults = new Faults(deps.memory, regs, this.#table, features, d);
    this.#pri = new PageRequests(regs, deps.memory, signals, deps.upcalls);
    this.#stalls = new Stalls(deps.upcalls);
    this.#handlers = this.#listen();
    this.#batch = new Batch(host, deps.trustPartialCount === true);
    this.#commands = new Commands({
      regs,
      signals,
      streams: this.#streams,
      domains: this.#domains,
      batch: this.#batch,
      stalls: this.#stalls,
      features,
      deviations: d,
      upcalls: deps.upcalls,
      handlers: this.#handlers,
    });
    this.#queue = new CommandQueue(regs, deps.memory, signals, d, this.#commands, deps.tell, this.name);
    if (deps.upcalls === null) {
      this.#domains.onViommu = (domain) => this.#listenVirtual(domain.viommuId > 0 ? [domain] : []);
    }
  }

  /** What the host tells this device beyond Linux. */
  #listen(): UpcallHandlers {
    const record = new Int32Array(EVENT_WORDS);
    return {
      onStreamMiss: (devId, stream) => this.#streams.firstUse(devId, stream),
      onStageTwoMiss: (devId, _stream, _pasid, ipa, access) => {
        const s = this.#streams.byDev(devId);
        const shadow = (s?.context?.domain ?? s?.domain)?.shadow;
        return shadow?.fill(ipa, access) ?? false;
      },
      onFault: (devId, stream, raw) => {
        const s = this.#streams.byDev(devId);
        if (s === undefined) return;
        record.set(raw.subarray(0, EVENT_WORDS));
        if (evStall(record)) this.#stalls.add(s, evStag(record), evSsv(record) ? evSsid(record) : -1);
        const sid = s.sids[stream] ?? s.sids[0]!;
        if (this.#faults.attribute(s, sid, record)) this.#events.record(this.#faults.record, this.#faults.merge);
      },
      onPageRequest: (devId, stream, raw) => {
        const s = this.#streams.byDev(devId);
        if (s === undefined || !this.#deps.properties.pri) return false;
        this.#pri.receive(s, s.sids[stream] ?? s.sids[0]!, raw);
        return true;
      },
      onInvalidateError: (_devId, error) => {
        if (error === HW_ERROR.ATC_TIMEOUT) this.#commands.timedOut = true;
      },
      onDrained: () => this.#queue.run(),
    };
  }

  /** linux-only: events come through the kernel's queue, one per vIOMMU, once the guest has its own. */
  #listenVirtual(domains = this.#domains.all): void {
    if (this.#deps.upcalls !== null || !this.#regs.enabled(CR0.EVENTQEN)) return;
    const depth = 2 ** Math.min(this.#regs.get(PAGE0.EVENTQ_BASE.at) & 31, 12);
    for (const domain of domains) {
      if (domain.viommuId === 0 || domain.eventFd !== null) continue;
      listenForEvents(this.#host, domain, depth, (e) => this.#events.record(e, false));
    }
  }

  /**
   * Plugs a device in, also while the guest runs.
   * @returns unplugs it; with the last one every host object of this vSMMU goes.
   * @throws ViommuError `EINVAL` no StreamID, `EBUSY` a StreamID is taken, `EIO` the host refuses the device, `EOPNOTSUPP`
   *   its SMMU lacks something the guest is shown.
   */
  addDevice(device: AttachedDevice): () => void {
    const s = this.#streams.add(device, this.#handlers);
    return () => {
      this.#stalls.terminate(s);
      this.#streams.remove(s);
    };
  }

  /**
   * log2 bytes of the guest's own stage-2 leaf behind what the host's copy holds for `ipa` of a stream; 0: no copy, or
   * nothing there. For people and for replay.
   */
  shadowLeaf(sid: number, ipa: number): number {
    const s = this.#streams.bySid(sid);
    return (s?.context?.domain ?? s?.domain)?.shadow?.leafShift(ipa) ?? 0;
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

  /** The streams with their states, for people and tests. */
  get streams(): Streams['list'] {
    return this.#streams.list;
  }

  /** Stage 2s and what stands on them, for people and tests. */
  get domains(): Domains['all'] {
    return this.#domains.all;
  }

  read(offset: number, size: number): number {
    const at = this.#regs.decode(offset, size, false);
    const value = at < 0 ? 0 : this.#regs.read(at);
    if (this.#deps.tell !== null) {
      this.#deps.tell({ what: 'reg.read', device: this.name, offset, size, value: BigInt(value) });
    }
    return value;
  }

  read64(offset: number, out: Int32Array): void {
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
    const regs = this.#regs;
    switch (at) {
      case PAGE0.CR0.at:
        this.#control(value);
        return;
      case PAGE0.GBPA.at:
        this.#globalBypass(value);
        return;
      case PAGE0.IRQ_CTRL.at:
        regs.set(PAGE0.IRQ_CTRLACK.at, regs.write(at, value));
        return;
      case PAGE0.GERRORN.at:
        regs.write(at, value);
        this.#queue.acknowledged();
        if (!this.#signals.active(GERROR.EVENTQ_ABT_ERR)) this.#events.roomMade();
        this.#queue.run();
        return;
      case PAGE0.STRTAB_BASE_CFG.at:
        regs.write(at, value);
        this.#table.configured();
        return;
      case PAGE0.CMDQ_PROD.at:
        regs.write(at, value);
        this.#queue.run();
        return;
      case PAGE1.EVENTQ_CONS.at:
        regs.write(at, value);
        this.#events.roomMade();
        return;
      default:
        regs.write(at, value);
    }
  }

  /** CR0: everything it enables is enabled at once, and CR0ACK says so (IHI 0070 §6.3.9). */
  #control(value: number): void {
    const regs = this.#regs;
    const before = regs.get(PAGE0.CR0.at);
    const now = regs.write(PAGE0.CR0.at, value);
    regs.set(PAGE0.CR0ACK.at, regs.cr0Ack(now));
    if (((before ^ now) & CR0.SMMUEN) !== 0) {
      if ((now & CR0.SMMUEN) !== 0) {
        this.#streams.unsetAll();
      } else {
        this.#stalls.terminateAll();
        this.#streams.applyPolicy();
      }
    }
    if ((~before & now & CR0.EVENTQEN) !== 0) {
      this.#listenVirtual();
      this.#events.roomMade();
    }
    this.#queue.run();
  }

  /** GBPA changes only with UPDATE, which reads 0 again at once (IHI 0070 §6.3.14). */
  #globalBypass(value: number): void {
    if ((value & GBPA.UPDATE) === 0) return;
    const mask = this.deviations.rawGbpa ? ~GBPA.UPDATE : Number(PAGE0.GBPA.rw);
    this.#regs.set(PAGE0.GBPA.at, value & mask);
    if (!this.#regs.enabled(CR0.SMMUEN)) this.#streams.applyPolicy();
  }

  /** Machine reset, after all DMA has come to rest. */
  reset(): void {
    this.#stalls.terminateAll();
    this.#batch.drop();
    this.#commands.timedOut = false;
    this.#queue.reset();
    this.#events.reset();
    this.#table.reset();
    this.#regs.reset();
    if (this.#streams.list.length > 0) this.#streams.applyPolicy();
  }

  /** Plain data, also in the middle of a command queue. */
  save(): DeviceState {
    return saveDevice(this.#parts());
  }

  /**
   * Takes the state of a device with the same devices plugged in; guest memory is as it was then. Host objects are made
   * anew, nothing that was cached before counts, and transactions that were stalled elsewhere are gone.
   * @throws ViommuError `EINVAL` other devices are plugged in; `EIO` the host refuses.
   */
  load(state: DeviceState): void {
    this.#stalls.terminateAll();
    this.#batch.drop();
    loadDevice(this.#parts(), state);
    this.#commands.forgetAll();
  }

  #parts() {
    return {
      regs: this.#regs,
      events: this.#events,
      queue: this.#queue,
      commands: this.#commands,
      table: this.#table,
      streams: this.#streams,
    };
  }
}
