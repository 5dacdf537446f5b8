import { ViommuError } from '../../src/core/errors.ts';
import type { HostVerbs, VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { IsolationGroups } from '../../src/lib/uapi/isolation-groups.ts';
import { isShortage } from '../../src/lib/uapi/refusals.ts';
import type { UpcallHandlers } from '../../src/ports/upcalls.ts';
import { E, errnoName } from '../../src/spec/iommufd/errno.ts';
import { CR0, GBPA, PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import { Smmuv3Attachments } from './attachments.ts';
import type { Smmuv3Core } from './core.ts';
import type { AttachedDevice } from './deps.ts';
import type { Smmuv3Domains } from './domains.ts';
import { missingOnHost } from './host-features.ts';
import { Smmuv3Stream, type Smmuv3StreamDevice, type StreamSaved, type StreamState } from './stream.ts';
import { APART } from './stream-host.ts';
import type { Smmuv3Tables } from './tables.ts';

/** The guest's entry is a bad one, so that nothing is attached. */
const BAD_ENTRY = 2;

/** The guest's streams: which devices are plugged in, and when the entry of each of their StreamIDs is looked at. */
export class Smmuv3Streams {
  readonly #core: Smmuv3Core;
  readonly #host: HostVerbs;
  readonly #domains: Smmuv3Domains;
  readonly #tables: Smmuv3Tables;
  readonly #attachments: Smmuv3Attachments;
  /**
   * Hears of a stream that aborts because the host cannot have its configuration. @param contradicts another StreamID of the
   * same device has a different one; else the host refused for a reason of its own.
   */
  onLost: ((sid: number, contradicts: boolean) => void) | null = null;
  readonly #list: Smmuv3Stream[] = [];
  readonly #bySid = new Map<number, Smmuv3Stream>();
  readonly #byDev = new Map<number, Smmuv3StreamDevice>();
  readonly #groups = new IsolationGroups<Smmuv3StreamDevice>();
  /** Those that the host refused to take off what they had when translation was switched. */
  readonly #late = new Set<Smmuv3Stream>();
  /** Without upcalls: those that the host cannot have as their entries say, while the guest has not been told. */
  readonly #lost = new Set<Smmuv3Stream>();
  /** Those whose entry the host refused at the last CFGI_STE: they are what they were before it. */
  readonly #refused = new Set<Smmuv3Stream>();

  constructor(core: Smmuv3Core, domains: Smmuv3Domains, tables: Smmuv3Tables) {
    this.#core = core;
    this.#host = core.host;
    this.#domains = domains;
    this.#tables = tables;
    this.#attachments = new Smmuv3Attachments(core, domains);
  }

  get list(): readonly Smmuv3Stream[] {
    return this.#list;
  }

  bySid(sid: number): Smmuv3Stream | undefined {
    return this.#bySid.get(sid);
  }

  /** Stream `index` of a device. */
  ofDevice(devId: number, index: number): Smmuv3Stream | undefined {
    return this.#byDev.get(devId)?.streams[index];
  }

  /**
   * Takes a device in.
   * @throws ViommuError `EINVAL` no StreamID; `EBUSY` one is taken; `EIO` the host refuses the device; `EOPNOTSUPP` its SMMU
   *   lacks something the guest is shown.
   */
  add(device: AttachedDevice, handlers: UpcallHandlers): Smmuv3StreamDevice {
    const { sids, vfio } = device;
    if (sids.length === 0) throw new ViommuError('EINVAL', 'caller', 'a device needs a StreamID');
    const taken = sids.find((sid) => this.#bySid.has(sid));
    if (taken !== undefined) throw new ViommuError('EBUSY', 'caller', 'StreamID is taken', { sid: taken });
    this.#must(this.#host.bind(vfio), 'bind');
    const { devId } = vfio;
    this.#compare(devId);
    if (this.#domains.home === null) {
      const home = this.#domains.ram(devId, 0);
      if (typeof home === 'number') this.#must(home, 'nest parent');
      else this.#domains.home = home;
    }
    const { upcalls } = this.#core.deps;
    const streams: Smmuv3Stream[] = [];
    const shared = upcalls === null && sids.length > 1;
    const { group: groupName } = device;
    const d: Smmuv3StreamDevice = { vfio, streams, shared, hwptId: 0, unserve: () => {}, groupName, group: new Set() };
    d.group = this.#groups.join(groupName, d);
    sids.forEach((sid, i) => {
      const s = new Smmuv3Stream(d, i, sid);
      streams.push(s);
      this.#list.push(s);
      this.#bySid.set(sid, s);
    });
    this.#byDev.set(devId, d);
    if (upcalls !== null) d.unserve = upcalls.serve([devId], handlers);
    if (this.#enabled()) {
      if (upcalls === null) for (const s of streams) this.#place(s);
      this.tellOfLost(streams);
    } else {
      for (const s of streams) {
        const r = this.#policy(s);
        if (r >= 0) continue;
        this.remove(d);
        this.#must(r, 'attach');
      }
    }
    return d;
  }

  /** The hardware must be able to do what the guest is shown, before the guest can rely on it. */
  #compare(devId: number): void {
    const idr = this.#host.smmuv3Info(devId);
    if (typeof idr === 'number') {
      this.#must(idr, 'GET_HW_INFO');
      return;
    }
    const missing = missingOnHost(this.#core.identity, idr);
    if (missing === null) return;
    throw new ViommuError('EOPNOTSUPP', 'host', 'the physical SMMU does not match what the guest is shown', {
      field: missing,
    });
  }

  #must(result: VerbOutcome, what: string): void {
    if (result < 0) throw new ViommuError('EIO', 'host', `${what} refused: ${errnoName(result)}`, { result });
  }

  /**
   * Takes a device out; with the last one every host object of this vSMMU goes. What the host does not detach goes when the
   * device's file is closed.
   */
  remove(d: Smmuv3StreamDevice): void {
    if (!this.#byDev.delete(d.vfio.devId)) return;
    let detached: VerbOutcome = 0;
    for (const s of d.streams) {
      this.#list.splice(this.#list.indexOf(s), 1);
      this.#bySid.delete(s.sid);
      this.#late.delete(s);
      this.#lost.delete(s);
      this.#refused.delete(s);
      detached = Math.min(this.#attachments.remove(s), detached);
    }
    this.#groups.leave(d.groupName, d);
    d.unserve();
    if (this.#list.length === 0) this.#domains.close();
    this.#core.refusals.note('undoing', detached);
  }

  /**
   * Whether a stream is without translation, so that its SubstreamIDs mean nothing (IHI 0070 §6.3.9.6). While a switch goes
   * through the streams, each is what it was until its turn.
   */
  bypasses(sid: number): boolean {
    const state = this.#bySid.get(sid)?.state ?? 'unset';
    return state === 'policy' || (!this.#enabled() && (state === 'unset' || state === 'abort'));
  }

  #enabled(): boolean {
    return this.#core.registers.enabled(CR0.SMMUEN);
  }

  /**
   * SMMUEN or GBPA changed: without translation every stream bypasses or aborts as GBPA says (IHI 0070 §6.3.14), with it each is
   * configured on its next use; at once where no one asks then. As far as the budget goes: `work.unfinished`.
   */
  placeAll(): VerbOutcome {
    return this.#placeEach(this.#list);
  }

  /** Streams that the host left with what they had before, in the same way. */
  placeLate(): VerbOutcome {
    return this.#placeEach([...this.#late]);
  }

  /** Whether nothing has what it had before any more. */
  get placed(): boolean {
    return this.#late.size === 0 && this.#core.confirm.ask() >= 0;
  }

  #placeEach(list: readonly Smmuv3Stream[]): VerbOutcome {
    const { work } = this.#core;
    for (const s of list) {
      if (s.round === work.round) continue;
      if (work.over) {
        work.unfinished = true;
        return work.refused;
      }
      this.#clear(s);
      work.part(this.#place(s));
      s.round = work.round;
    }
    return work.refused;
  }

  /** The host takes no device of a group to a place of its own while another one holds what was before the switch. */
  #clear(s: Smmuv3Stream): void {
    const { group } = s.device;
    if (group.size === 1) return;
    const on = this.#enabled();
    for (const { streams } of group) {
      for (const other of streams) {
        const before = on ? other.state === 'policy' : other.state !== 'policy';
        if (before) this.#core.refusals.note('switch of translation', this.#attachments.unset(other));
      }
    }
  }

  /**
   * Where the hardware asks on first use, only what is still in force is late. Where it does not, an entry that is in the table
   * before translation, or before its device, would never come into force: no command needs to announce it.
   */
  #place(s: Smmuv3Stream): VerbOutcome {
    const { deps, refusals } = this.#core;
    const asks = deps.upcalls !== null;
    const gone = this.#enabled() ? this.#attachments.unset(s) : this.#policy(s);
    const found = asks || gone < 0 || !this.#enabled() ? gone : Math.min(this.#configure(s), 0);
    const refused = refusals.note('switch of translation', found);
    // What the host may never do is lost, and nobody waits for it.
    const lost = !asks && gone >= 0 && refused && !isShortage(found);
    if (lost) this.#lost.add(s);
    else this.#lost.delete(s);
    if (refused && !lost && !(asks && s.state === 'unset')) this.#late.add(s);
    else this.#late.delete(s);
    return found;
  }

  /** What has nothing now never will, since nobody is asked on first use: the guest hears of it here or not at all. */
  tellOfLost(list: readonly Smmuv3Stream[] = this.#list): void {
    if (this.#core.deps.upcalls !== null || !this.#enabled()) return;
    for (const s of list) {
      // Where the streams of a device do not agree, none of them has what it asks for.
      const apart = s.shared && new Set(s.device.streams.map((t) => t.hwptId).filter((id) => id > 0)).size > 1;
      const without = this.#lost.delete(s) || (apart && s.state !== 'abort' && s.state !== 'unset');
      if (without) this.onLost?.(s.sid, s.shared);
    }
  }

  #policy(s: Smmuv3Stream): VerbOutcome {
    return this.#attachments.policy(s, (this.#core.registers.get(PAGE0.GBPA.at) & GBPA.ABORT) !== 0);
  }

  /** Whether the guest's entry of a stream in stage 1 still says what is in force, word for word, so that only its CDs may be others. */
  says(s: Smmuv3Stream): boolean {
    if (s.context?.hwptId !== s.hwptId || !s.settled || !this.#enabled()) return false;
    if (this.#tables.lookup(s.sid) !== 0) return false;
    const { ste } = this.#tables;
    for (let i = 0; i < ste.length; i++) if (ste[i] !== s.ste[i]) return false;
    return true;
  }

  /**
   * CFGI_STE: the stream gets its vDEVICE, whatever its STE says, and what the STE says now. An unknown StreamID is nothing.
   * A host that has one configuration for all streams of a device has no vDEVICE for it either, and refuses an entry that
   * asks for something else than the device's other streams do.
   * @returns 0, UNCHANGED, or -errno.
   */
  invalidate(sid: number): VerbOutcome {
    const s = this.#bySid.get(sid);
    if (s === undefined) return 0;
    const before = s.device.hwptId;
    const found = this.#enabled() ? this.#configure(s) : 0;
    if (found < 0) this.#refused.add(s);
    else this.#refused.delete(s);
    const { deviations, deps } = this.#core;
    if (deps.upcalls === null && (found < 0 || found === APART)) this.#tellOfLost(s, before);
    if (found === APART) return -E.OPNOTSUPP;
    const r = found !== BAD_ENTRY ? found : deviations.badSteIsIll && deps.properties.accel ? -E.IO : 0;
    const tied = s.vdeviceId === 0 && !s.shared ? this.#attachments.tie(s) : 0;
    return r < 0 || tied >= 0 ? r : tied;
  }

  /**
   * The guest goes on behind a refused CFGI_STE: nothing is attached to the stream, the next access asks.
   * @returns 0 or -errno: it still has what was to go.
   */
  dropRefused(): VerbOutcome {
    let refused = 0;
    for (const s of [...this.#refused]) {
      const r = s.shared ? 0 : this.#attachments.unset(s);
      if (r < 0) refused = r;
      else this.#refused.delete(s);
    }
    return refused;
  }

  /**
   * A host without upcalls refused an entry and will say nothing of what the stream sends from now on: the guest is told here.
   * A device with one configuration for all has lost what its other streams had as well.
   * @param before what the device was attached to as a whole; 0: nothing.
   */
  #tellOfLost(s: Smmuv3Stream, before: number): void {
    this.onLost?.(s.sid, s.shared);
    if (!s.shared || before === 0 || s.device.hwptId !== 0) return;
    for (const other of s.device.streams) {
      if (other !== s && other.hwptId === before && other.state !== 'abort') this.onLost?.(other.sid, true);
    }
  }

  /** First use of a stream without configuration. @returns whether it has one now. */
  firstUse(devId: number, index: number): boolean {
    const s = this.ofDevice(devId, index);
    if (s === undefined || s.state !== 'unset') return false;
    const r = this.#enabled() ? this.#configure(s) : this.#policy(s);
    return !this.#core.refusals.note('first use', r) && (s.state as StreamState) !== 'unset';
  }

  /**
   * Reads the guest's entry and puts the host into its state. A bad entry leaves the stream unset: each use is reported and
   * looked at again.
   * @returns 0, UNCHANGED, BAD_ENTRY, APART, or -errno.
   */
  #configure(s: Smmuv3Stream): VerbOutcome {
    if (this.#tables.lookup(s.sid) !== 0) {
      const r = this.#attachments.unset(s);
      return r < 0 ? r : BAD_ENTRY;
    }
    const r = this.#attachments.apply(s, this.#tables.ste);
    if (r >= 0) this.#late.delete(s);
    return r;
  }

  /** What the guest was told of is void: the SMMU was reset, or a state is loaded. */
  forget(): void {
    this.#late.clear();
    this.#lost.clear();
    this.#refused.clear();
  }

  /**
   * One whose new entry was refused has nothing on the next host: there the entry is looked at again. Neither has one that
   * another device of its group has taken along: the host would not take both there one by one.
   */
  save(): StreamSaved[] {
    return this.#list.map((s) => ({
      sid: s.sid,
      state: this.#refused.has(s) || (!s.shared && s.ownHwptId !== s.hwptId) ? 'unset' : s.state,
      ste: Array.from(s.ste),
      tied: s.vdeviceId > 0,
    }));
  }

  /**
   * Makes the host objects of a saved machine anew: configured streams from the entries that were in force, the others from
   * the registers. @param anyway a stream that the host refuses is left to its first use.
   * @throws ViommuError `EINVAL` other devices are plugged in; `EIO` the host refuses.
   */
  load(list: readonly StreamSaved[], anyway: boolean): void {
    this.forget();
    // No device of a group holds what it has now when another one of it is to have something else.
    for (const s of this.#list) if (s.device.group.size > 1) this.#must(this.#attachments.unset(s), 'stream');
    // Those that hold their group first.
    const unset = (saved: StreamSaved) => Number(saved.state === 'unset');
    for (const saved of [...list].sort((a, b) => unset(a) - unset(b))) {
      const s = this.#bySid.get(saved.sid);
      if (s === undefined) throw new ViommuError('EINVAL', 'caller', 'no such device', { sid: saved.sid });
      const refused = this.#load(s, saved);
      if (!anyway) this.#must(refused, 'stream');
      else if (this.#core.refusals.note('switch of translation', refused)) s.ste.set(saved.ste);
    }
    if (this.#lost.size > 0) this.tellOfLost([...this.#lost]);
  }

  /** @returns 0, or -errno: the host refuses, and the stream has nothing. */
  #load(s: Smmuv3Stream, saved: StreamSaved): VerbOutcome {
    const gone = this.#attachments.unset(s);
    if (gone < 0) return gone;
    if (!saved.tied) this.#attachments.untie(s);
    else if (s.vdeviceId === 0) {
      const tied = this.#attachments.tie(s);
      if (tied < 0) return tied;
    }
    const ste = Int32Array.from(saved.ste);
    s.ste.set(ste);
    if (saved.state === 'unset') {
      // Where nobody asks on first use, it would have nothing for ever.
      if (this.#core.deps.upcalls === null && this.#enabled()) this.#place(s);
      return 0;
    }
    if (saved.state === 'policy') return Math.min(this.#policy(s), 0);
    const r = saved.state === 'abort' ? this.#attachments.abort(s, ste) : this.#attachments.apply(s, ste);
    return Math.min(r, 0);
  }
}
