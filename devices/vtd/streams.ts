import { ViommuError } from '../../src/core/errors.ts';
import { DRAINED, type PasidDrain } from '../../src/lib/pasid/pasid-drain.ts';
import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { IsolationGroups } from '../../src/lib/uapi/isolation-groups.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import type { UpcallHandlers } from '../../src/ports/upcalls.ts';
import { VtdAttachments, type VtdSlotListener } from './attachments.ts';
import { VtdCapture } from './capture.ts';
import type { VtdCore } from './core.ts';
import type { VtdFunction } from './deps.ts';
import type { VtdDomains } from './domains.ts';
import { GoneStreams } from './gone.ts';
import { VtdHealing } from './healing.ts';
import { GlobalPasids, globalMode, type PasidMode, sameMode, sliceMode, UNKNOWN_PASID } from './pasid-modes.ts';
import { VtdRounds } from './rounds.ts';
import { VtdStream, type VtdStreamDevice } from './stream.ts';
import { VtdGuestTables } from './tables.ts';

/**
 * The streams behind the unit and when each is set up: on first use; under caching mode, or without upcalls, when the guest says
 * that something is new; PASIDs that the host names otherwise as soon as the tables have them, so that the names are there.
 */
export class VtdStreams {
  /** Guest PASID of the last `find`. */
  pasid = NO_PASID;
  /** iommufd's fault queue for the HWPTs of first stages; 0: none is used. */
  faultId = 0;
  readonly #core: VtdCore;
  readonly #tables: VtdGuestTables;
  readonly #domains: VtdDomains;
  readonly #attachments: VtdAttachments;
  /** The host's PASIDs, for slices and global mode. */
  readonly #globals: GlobalPasids | null;
  readonly #drain: PasidDrain;
  /** What the host refused is tried again. */
  readonly healing: VtdHealing;
  /** What goes through all of them. */
  readonly rounds: VtdRounds;
  readonly #list: VtdStream[] = [];
  readonly #byRid = new Map<number, VtdStream>();
  readonly #byDev = new Map<number, VtdStreamDevice>();
  readonly #groups = new IsolationGroups<VtdStreamDevice>();
  readonly #gone = new GoneStreams();

  constructor(core: VtdCore, domains: VtdDomains) {
    const { pasids, globals, drain = DRAINED } = core.deps;
    this.#core = core;
    this.#domains = domains;
    this.#tables = new VtdGuestTables(core);
    this.#attachments = new VtdAttachments(core, this.#tables, domains);
    this.#drain = drain;
    this.healing = new VtdHealing(core, this.#list, this.#attachments);
    const { healing } = this;
    const attachments = this.#attachments;
    const capture = new VtdCapture(core, this.#tables, attachments);
    this.rounds = new VtdRounds({ core, list: this.#list, attachments, capture, healing, domains });
    this.#globals = globals ?? (pasids === undefined ? null : new GlobalPasids(pasids, drain));
    this.#globals?.onMissing((local) => this.#missing(local));
  }

  /**
   * Hears that the host cannot have a requester or PASID as the tables say, where no access would show it: a processor's PASID
   * has no twin, or nobody is asked on first use.
   */
  get onLost(): ((rid: number, pasid: number) => void) | null {
    return this.#attachments.onLost;
  }

  set onLost(hears: ((rid: number, pasid: number) => void) | null) {
    this.#attachments.onLost = hears;
  }

  /** Tells of every PASID of a stream that is taken away, while its host PASIDs still have their names; asks whether one has to stay. */
  set listener(listener: VtdSlotListener) {
    this.#attachments.listener = listener;
  }

  get list(): readonly VtdStream[] {
    return this.#list;
  }

  /** See `Vtd.attachments`. */
  attachments(): { rid: number; pasid: number; key: string; hwptId: number }[] {
    return this.#list.flatMap((s) => {
      const slots = s.slots.list.map(({ pasid, domain }) => ({
        rid: s.rid,
        pasid,
        key: domain.key,
        hwptId: domain.hwptId,
      }));
      if (!s.bypass) return slots;
      const parent = this.#domains.parent(s.vfio.devId);
      const hwptId = typeof parent === 'number' ? 0 : parent.hwptId;
      return [{ rid: s.rid, pasid: NO_PASID, key: 'bypass', hwptId }, ...slots];
    });
  }

  /** The stream of a guest requester id. */
  byRid(rid: number): VtdStream | undefined {
    return this.#byRid.get(rid);
  }

  /** The stream that sends as physical stream `index` of a device; slices of it are passed over. */
  ofDevice(devId: number, index: number): VtdStream | undefined {
    const d = this.#byDev.get(devId);
    return d?.streams.find((s) => !d.several || s.index === index);
  }

  /**
   * Requester id of physical stream `index` of a device under a host PASID (slices have PASIDs of their own), also of one taken
   * out while its answer is missing; -1.
   */
  ridOf(devId: number, index: number, host: number): number {
    const gone = this.#gone;
    const named = host === NO_PASID ? undefined : (gone.rid(devId, index, host) ?? this.find(devId, index, host)?.rid);
    return named ?? this.ofDevice(devId, index)?.rid ?? gone.rid(devId, index, NO_PASID) ?? -1;
  }

  /** No answer of a function that is gone is missing any more. */
  forgetGone(): void {
    this.#gone.clear();
  }

  /**
   * The stream behind a host PASID of a device's physical stream `index`; its guest name is left in `pasid`. Slices, which are
   * last in the list, come first: what none of them has is the function's own.
   */
  find(devId: number, index: number, host: number): VtdStream | undefined {
    const d = this.#byDev.get(devId);
    if (d === undefined) return undefined;
    const { streams, several } = d;
    for (let i = streams.length - 1; i >= 0; i--) {
      const s = streams[i]!;
      const pasid = several && s.index !== index ? UNKNOWN_PASID : s.mode.toGuest(host);
      if (pasid === UNKNOWN_PASID) continue;
      this.pasid = pasid;
      return s;
    }
    return undefined;
  }

  /**
   * Takes a function in. Its VFIO device is bound.
   * @returns its streams, one for each requester id.
   * @throws ViommuError `EEXIST` when a requester id is taken; `EBUSY` when the PASID of a slice is; `EINVAL` for a slice or
   *   global mode without a PASID space, or a slice with several requester ids.
   */
  add(f: VtdFunction, handlers: UpcallHandlers): readonly VtdStream[] {
    const { rid, aliases = [], vfio } = f;
    const rids = [rid, ...aliases];
    const taken = rids.find((r) => this.#byRid.has(r));
    if (taken !== undefined) throw new ViommuError('EEXIST', 'caller', 'requester id is taken', { rid: taken });
    const { host, features, deps } = this.#core;
    const { devId } = vfio;
    const pasidBits = Math.min(Math.max(host.pasidBits(devId), 0), features.pasidBits);
    const modes = rids.map(() => this.#mode(f));
    let device = this.#byDev.get(devId);
    if (device === undefined) {
      const unserve = deps.upcalls?.serve([devId], handlers) ?? (() => {});
      const several = rids.length > 1;
      const maps = { agreed: new Map(), unproved: new Set<number>(), attached: new Map() };
      device = { vfio, streams: [], several, ...maps, unserve, groupName: f.group, group: new Set() };
      device.group = this.#groups.join(f.group, device);
      this.#byDev.set(devId, device);
    }
    const { faultId } = this;
    const { slice } = f;
    const global = slice === undefined && f.pasids === 'global';
    const streams: VtdStream[] = [];
    rids.forEach((r, index) => {
      const s = new VtdStream({ device, index, rid: r, pasidBits, mode: modes[index]!, slice, global, faultId });
      streams.push(s);
      device.streams.push(s);
      this.#list.push(s);
      this.#byRid.set(r, s);
    });
    const { work, refusals } = this.#core;
    const refused = work.whole(() => {
      for (const s of streams) work.part(this.rounds.place(s));
      return work.part(this.#domains.goOn());
    });
    if (refusals.note('switch of translation', refused) && deps.upcalls === null) this.tellOfLost(streams);
    return streams;
  }

  #mode(f: VtdFunction): PasidMode {
    const { pasids } = this.#core.deps;
    const globals = this.#globals;
    const { devId } = f.vfio;
    const streams = () => this.#byDev.get(devId)?.streams ?? [];
    const taken = (pasid: number) => streams().some((s) => s.slice === pasid);
    if (f.slice === undefined && f.pasids !== 'global') return sameMode(taken);
    if (
      f.slice !== undefined &&
      streams().some((s) => s.slice === f.slice || s.slots.list.some((t) => t.host.includes(f.slice!)))
    ) {
      throw new ViommuError('EBUSY', 'caller', 'the function or another slice has the PASID', { pasid: f.slice });
    }
    if (pasids === undefined || globals === null) {
      throw new ViommuError('EINVAL', 'caller', 'slices and global PASIDs need a PASID space', { rid: f.rid });
    }
    if (f.slice !== undefined && (f.aliases?.length ?? 0) > 0) {
      throw new ViommuError('EINVAL', 'caller', 'a slice has one requester id', { rid: f.rid });
    }
    return f.slice === undefined ? globalMode(globals, taken) : sliceMode(f.slice, pasids, this.#drain);
  }

  /** Takes a function's streams out: everything of them is detached; with the last one guest RAM's HWPT goes. */
  remove(streams: readonly VtdStream[]): void {
    for (const s of streams) this.#remove(s);
  }

  #remove(s: VtdStream): void {
    const at = this.#list.indexOf(s);
    if (at < 0) return;
    const { device } = s;
    this.#gone.add(s);
    // What the host asks the function for by itself from here on is nothing that the guest waits for or hears of.
    if (device.streams.length === 1) device.unserve();
    this.#core.refusals.note('switch of translation', this.#attachments.unset(s));
    this.#attachments.abandon(s);
    this.#list.splice(at, 1);
    this.#byRid.delete(s.rid);
    device.streams.splice(device.streams.indexOf(s), 1);
    if (device.streams.length === 0) {
      this.#byDev.delete(device.vfio.devId);
      this.#groups.leave(device.groupName, device);
    }
    if (this.#list.length === 0) this.#domains.close();
  }

  /** The hardware has no configuration for a host PASID of a device's stream. @returns whether it has one now. */
  firstUse(devId: number, index: number, host: number): boolean {
    const s = this.find(devId, index, host);
    if (s === undefined) return false;
    const { pasid } = this;
    const { root, refusals } = this.#core;
    if (!root.on) {
      if (pasid !== NO_PASID) return false;
      refusals.note('first use', this.#attachments.bypass(s));
      return s.bypass;
    }
    const r = this.#attachments.configure(s, pasid);
    refusals.note('first use', r);
    return r === 0;
  }

  /** First use of a PASID under a name that the hardware does not know yet. @returns its first host PASID; -1: it has none. */
  usePasid(rid: number, pasid: number): number {
    const s = this.#byRid.get(rid);
    if (s === undefined || !this.#core.root.on || pasid < 0 || pasid >= 2 ** s.pasidBits) return -1;
    this.#core.refusals.note('first use', this.#configure(s, pasid));
    return s.slots.get(pasid)?.host[0] ?? -1;
  }

  /**
   * A processor met a local PASID without a twin: whoever has it in its tables sets it up. Where the host has none to give, no
   * work reaches a function, and the guest hears of it here or not at all.
   */
  #missing(local: number): void {
    for (const s of this.#list) {
      if (!s.global || s.slots.has(local)) continue;
      this.usePasid(s.rid, local);
      if (!s.slots.has(local) && s.unsettled.has(local)) this.onLost?.(s.rid, local);
    }
  }

  /** What has nothing now never will, since nobody is asked on first use: the guest hears of it here or not at all. */
  tellOfLost(list: readonly VtdStream[] = this.#list): void {
    for (const s of list) {
      // Where the streams of a device do not agree, none of them has it.
      const lost = new Set(s.device.streams.flatMap((other) => [...other.unsettled]));
      for (const pasid of lost) if (s.unsettled.has(pasid) || s.slots.has(pasid)) this.onLost?.(s.rid, pasid);
    }
  }

  /**
   * As far as the budget goes: `work.unfinished`.
   * @returns 0: no cache of the host's units knows what was detached; -errno.
   */
  confirmed(): VerbOutcome {
    const { work, confirm } = this.#core;
    const kept = this.healing.heal(false, true);
    if (work.unfinished || kept < 0) return kept;
    return confirm.ask() || this.#attachments.prove(this.#list);
  }

  /** Reset: a function that was taken for one without PRI is asked for its page requests again. */
  reset(): void {
    for (const s of this.#list) s.faultId = this.faultId;
  }

  /** VCMD freed a PASID: whatever still hangs on it goes. */
  pasidFreed(pasid: number): VerbOutcome {
    let refused = 0;
    for (const s of this.#list) refused = this.#attachments.detach(s, pasid) || refused;
    return refused;
  }

  /** The host's PASIDs go with their VM: nothing stays attached under one, and none is taken again. */
  releasePasids(): void {
    for (const s of this.#list) {
      if (!s.renamed) continue;
      s.mode.close();
      for (const { pasid } of [...s.slots.list]) {
        if (pasid === NO_PASID && s.slice === undefined) continue;
        this.#core.refusals.note('freed PASID', this.#attachments.detach(s, pasid));
      }
    }
  }

  /** @returns 0 or the host's refusal; that the tables have nothing valid is none. */
  #configure(s: VtdStream, pasid: number): VerbOutcome {
    return Math.min(this.#attachments.configure(s, pasid), 0);
  }
}
