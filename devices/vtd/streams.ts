import { ViommuError } from '../../src/core/errors.ts';
import type { PasidDrain } from '../../src/lib/pasid/pasid-drain.ts';
import type { PasidSpace } from '../../src/lib/pasid/pasid-space.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import { HW_ERROR } from '../../src/ports/hw.ts';
import type { Memory } from '../../src/ports/memory.ts';
import type { UpcallHandlers } from '../../src/ports/upcalls.ts';
import { frcd } from '../../src/spec/vtd/faults.ts';
import { SQ_MASK } from '../../src/spec/vtd/interrupt.ts';
import { CONTEXT_G, IOTLB_G, PASID_CACHE_G, PASID_IOTLB_G } from '../../src/spec/vtd/invalidation.ts';
import { PASID_BYTES, PASID_DIR_BYTES, pasidDir, pasidEntry } from '../../src/spec/vtd/tables.ts';
import { type Configurator, Stream } from './attacher.ts';
import type { Backend } from './backend.ts';
import type { VtdFunction, VtdHost } from './deps.ts';
import type { RegisterUnit } from './device.ts';
import type { VtdDomains } from './domains.ts';
import type { FaultJudge } from './faults.ts';
import { PageRelay } from './page-requests.ts';
import { type GlobalPasids, globalMode, type PasidMode, SAME_PASIDS, sliceMode } from './pasid-modes.ts';
import { StreamIndex } from './stream.ts';

/** Present PASIDs one invalidation captures per device; further ones wait for their first use. */
const CAPTURE = 1024;

export interface TranslationParts {
  readonly unit: RegisterUnit;
  readonly host: VtdHost;
  readonly memory: Memory;
  readonly domains: VtdDomains;
  readonly configurator: Configurator;
  readonly judge: FaultJudge;
  /** The host's PASIDs, for slices and global mode. */
  readonly pasids: PasidSpace | null;
  readonly globals: GlobalPasids | null;
  readonly drain: PasidDrain;
}

/**
 * Guest → host (and faults back): what the guest's invalidations and switches mean in iommufd's verbs. Streams are
 * configured on first use; under caching mode, or without upcalls, when the guest says that something is new.
 */
export class Translation implements Backend {
  readonly #p: TranslationParts;
  readonly #streams = new StreamIndex();
  readonly #relay: PageRelay;
  readonly #undo = new Map<number, () => void>();
  readonly #handlers: UpcallHandlers;
  /** No one asks on first use, or the guest promises to tell: configure when told. */
  readonly #eager: boolean;
  readonly #caching: boolean;
  #round = 0;

  constructor(parts: TranslationParts) {
    this.#p = parts;
    this.#caching = parts.unit.shape.props.cachingMode;
    this.#eager = this.#caching || parts.host.upcalls === null;
    this.#relay = new PageRelay(parts.unit, parts.host, this.#streams, parts.judge);
    this.#handlers = {
      onStreamMiss: (devId, _stream, pasid) => this.#streamMiss(devId, pasid),
      onStageTwoMiss: (devId, _stream, pasid, ipa, access) => this.#secondMiss(devId, pasid, ipa, access),
      onFault: (devId, stream, record) => this.#fault(devId, stream, record),
      onPageRequest: (devId, stream, record) => this.#relay.request(devId, stream, record),
      onInvalidateError: (devId, error) => {
        const s = this.#streams.ofDevice(devId)[0];
        if (s !== undefined && error === HW_ERROR.ATC_TIMEOUT) parts.unit.deviceTlbTimeout(s.rid);
      },
      onDrained: () => parts.unit.deviceTlbDone(),
    };
  }

  /**
   * A function appears behind the unit. Its VFIO device is bound.
   * @returns takes it away again (everything of it detached; the caller closes the VFIO device).
   * @throws ViommuError `EEXIST` when the requester id is taken; `EINVAL` for a slice or global mode without a PASID space.
   */
  add(f: VtdFunction): () => void {
    const rids = [f.rid, ...(f.aliases ?? [])];
    const taken = rids.find((r) => this.#streams.has(r));
    if (taken !== undefined) throw new ViommuError('EEXIST', 'caller', 'requester id is taken', { rid: taken });
    const { devId } = f.vfio;
    const s = new Stream(f.rid, f.aliases ?? [], f.vfio, this.#pasidBits(devId), this.#mode(f), this.#relay.faultId);
    const first = this.#streams.ofDevice(devId).length === 0;
    this.#streams.add(s);
    const { upcalls } = this.#p.host;
    if (upcalls !== null && first) this.#undo.set(devId, upcalls.serve([devId], this.#handlers));
    this.#place(s);
    return () => this.#remove(s);
  }

  #mode(f: VtdFunction): PasidMode {
    const { pasids, globals } = this.#p;
    if (f.slice === undefined && f.pasids !== 'global') return SAME_PASIDS;
    if (pasids === null || globals === null) {
      throw new ViommuError('EINVAL', 'caller', 'slices and global PASIDs need a PASID space', { rid: f.rid });
    }
    return f.slice === undefined ? globalMode(globals) : sliceMode(f.slice, pasids, this.#p.drain);
  }

  #pasidBits(devId: number): number {
    const known = this.#p.host.verbs.pasidBits(devId);
    return Math.min(Math.max(known, 0), this.#p.unit.shape.props.pasidBits);
  }

  #remove(s: Stream): void {
    this.#p.configurator.unset(s);
    const { devId } = s.vfio;
    this.#streams.remove(s);
    if (this.#streams.ofDevice(devId).length === 0) {
      this.#undo.get(devId)?.();
      this.#undo.delete(devId);
    }
    if (this.#streams.all.length === 0) this.#p.domains.close();
  }

  /** What a stream has before its first use. */
  #place(s: Stream): void {
    const { unit, configurator } = this.#p;
    if (!unit.root.on) {
      configurator.bypass(s);
      return;
    }
    configurator.unset(s);
    if (this.#eager) this.#capture(s, -1);
  }

  translationChanged(): void {
    for (const s of this.#streams.all) this.#place(s);
  }

  #streamMiss(devId: number, host: number): boolean {
    const s = this.#streams.find(devId, host);
    if (s === undefined) return false;
    const pasid = this.#streams.pasid;
    if (!this.#p.unit.root.on) {
      if (pasid !== NO_PASID) return false;
      this.#p.configurator.bypass(s);
      return s.bypass;
    }
    return this.#p.configurator.configure(s, pasid);
  }

  #secondMiss(devId: number, host: number, ipa: number, access: number): boolean {
    const slot = this.#streams.find(devId, host)?.slots.get(this.#streams.pasid);
    if (slot === undefined) return false;
    if (slot.domain.kind === 'second') return slot.domain.shadow.miss(ipa, access);
    if (slot.domain.kind === 'first') return slot.domain.first.parent?.miss(ipa, access) ?? false;
    return false;
  }

  #fault(devId: number, stream: number, record: Int32Array): void {
    const s = this.#streams.find(devId, frcd.pasid(record[2]!, record[3]!));
    if (s !== undefined) this.#p.judge.fault(s.ridOf(stream), this.#streams.pasid, record);
  }

  /** Whether a context-cache request reaches a stream: masked source id, or (in legacy mode) the domain. */
  #reaches(s: Stream, g: number, did: number, sid: number, fm: number): boolean {
    if (g === CONTEXT_G.DEVICE) {
      const mask = SQ_MASK[fm]!;
      return (s.rid & mask) === (sid & mask);
    }
    if (g === CONTEXT_G.GLOBAL || this.#p.unit.shape.props.scalableMode) return true;
    const slot = s.slots.get(NO_PASID);
    return slot === undefined || slot.did === did;
  }

  invalidateContext(g: number, did: number, sid: number, fm: number): void {
    if (!this.#p.unit.root.on) return;
    for (const s of this.#streams.all) {
      if (!this.#reaches(s, g, did, sid, fm)) continue;
      this.#refresh(s, -1, -1);
      if (this.#eager) this.#p.configurator.configure(s, NO_PASID);
    }
  }

  /** Looks again at every attached slot of the domain and PASID (-1: any). */
  #refresh(s: Stream, did: number, index: number): void {
    for (const slot of [...s.slots.list]) {
      if ((did >= 0 && slot.did !== did) || (index >= 0 && slot.index !== index)) continue;
      this.#p.configurator.configure(s, slot.pasid);
    }
  }

  invalidatePasidCache(g: number, did: number, pasid: number): void {
    if (!this.#p.unit.root.on) return;
    const domain = g === PASID_CACHE_G.GLOBAL ? -1 : did;
    const index = g === PASID_CACHE_G.PASID ? pasid : -1;
    for (const s of this.#streams.all) {
      this.#refresh(s, domain, index);
      if (index >= 0) this.#captureOne(s, index, domain);
      else this.#capture(s, domain);
    }
  }

  /** Attaches one PASID (by index) when its entry is present and of the domain. */
  #captureOne(s: Stream, index: number, did: number): void {
    const { configurator } = this.#p;
    const rid = configurator.lookup(s.rid, NO_PASID);
    if (rid !== null && rid.pasid === index && !s.slots.has(NO_PASID) && (did < 0 || rid.did === did)) {
      configurator.configure(s, NO_PASID);
    }
    if (index === configurator.context.ridPasid || index >= 2 ** s.pasidBits || s.slots.has(index)) return;
    const r = configurator.lookup(s.rid, index);
    if (r !== null && (did < 0 || r.did === did)) configurator.configure(s, index);
  }

  /** Attaches the RID and every present PASID of the domain (-1: any). */
  #capture(s: Stream, did: number): void {
    const { configurator } = this.#p;
    const r = configurator.lookup(s.rid, NO_PASID);
    if (r !== null && (did < 0 || r.did === did)) configurator.configure(s, NO_PASID);
    const c = configurator.context;
    if (s.pasidBits === 0 || !c.scalable || (r === null && c.pasids === 0)) return;
    const memory = this.#p.memory;
    const { directory } = c;
    const end = Math.min(2 ** s.pasidBits, c.pasids);
    let left = CAPTURE;
    for (let base = 0; base < end; base += 64) {
      if (!memory.load64(directory + (base >>> 6) * PASID_DIR_BYTES)) return;
      if (!pasidDir.p(memory.lo)) continue;
      const table = pasidDir.smptblptr(memory.lo, memory.hi);
      for (let i = 0; i < 64; i++) {
        const index = base + i;
        if (index === c.ridPasid || s.slots.has(index)) continue;
        if (!memory.load64(table + i * PASID_BYTES) || !pasidEntry.p(memory.lo)) continue;
        const found = configurator.lookup(s.rid, index);
        if (found === null || (did >= 0 && found.did !== did)) continue;
        if (left-- <= 0) return;
        configurator.configure(s, index);
      }
    }
  }

  invalidateIotlb(g: number, did: number, page: number, am: number): void {
    const { domains } = this.#p;
    const shadows = domains.shadows.list;
    for (let i = 0; i < shadows.length; i++) {
      const shadow = shadows[i]!;
      if (g !== IOTLB_G.GLOBAL && shadow.did !== did) continue;
      if (g === IOTLB_G.PAGE) {
        const pages = 2 ** am;
        const first = page - (page % pages);
        shadow.invalidate(first, pages);
        if (this.#eager) shadow.fill(first, pages);
      } else {
        shadow.clear();
        if (this.#eager) shadow.fillAll();
      }
    }
    // First-stage entries of the domain go whole, whatever the address (§6.5.2.3).
    const firsts = domains.firsts.list;
    for (let i = 0; i < firsts.length; i++) {
      const first = firsts[i]!;
      if (g === IOTLB_G.GLOBAL || first.did === did) first.invalidateAll();
    }
  }

  invalidatePasidIotlb(g: number, did: number, pasid: number, page: number, am: number, leaf: boolean): void {
    this.#round++;
    const streams = this.#streams.all;
    for (let i = 0; i < streams.length; i++) {
      const slots = streams[i]!.slots.list;
      for (let k = 0; k < slots.length; k++) {
        const slot = slots[k]!;
        if (slot.did !== did || slot.index !== pasid) continue;
        if (slot.domain.kind === 'first') {
          const first = slot.domain.first;
          if (first.round === this.#round) continue;
          first.round = this.#round;
          if (g === PASID_IOTLB_G.PAGE) first.invalidate(page, am, leaf);
          else first.invalidateAll();
        } else if (slot.domain.kind === 'second' && g === PASID_IOTLB_G.PASID) {
          const shadow = slot.domain.shadow;
          if (shadow.round === this.#round) continue;
          shadow.round = this.#round;
          shadow.clear();
          if (this.#eager) shadow.fillAll();
        }
      }
    }
  }

  invalidateDeviceTlb(sid: number, pasid: number, lo: number, hi: number, global: boolean): void {
    const s = this.#streams.byRid(sid);
    if (s === undefined) return;
    const hosts = s.mode.toHost(pasid);
    for (let i = 0; i < hosts.length; i++) {
      this.#p.host.upcalls?.invalidateDeviceTlb?.(s.vfio.devId, hosts[i]!, lo, hi, global);
    }
  }

  pasidFreed(pasid: number): void {
    for (const s of this.#streams.all) this.#p.configurator.detach(s, pasid);
  }

  respond(sid: number, pasid: number, group: number, code: number): void {
    this.#relay.respond(sid, pasid, group, code);
  }

  /** Host PASIDs behind a guest PASID of a function that is set up. */
  hostPasids(rid: number, pasid: number): readonly number[] {
    const s = this.#streams.byRid(rid);
    return s?.slots.get(pasid)?.host ?? [];
  }

  outstanding(): number {
    return this.#p.host.upcalls?.outstanding(this.#handlers) ?? 0;
  }

  /** Guest memory is about to go (hot-unplug). */
  forget(gpa: number, bytes: number): void {
    for (const shadow of this.#p.domains.shadows.list) shadow.forget(gpa, bytes);
  }

  /** Streams with what they are attached to, for people and tests. */
  describe(): { rid: number; pasid: number; key: string; hwptId: number }[] {
    const out: { rid: number; pasid: number; key: string; hwptId: number }[] = [];
    for (const s of this.#streams.all) {
      if (s.bypass) {
        const parent = this.#p.domains.parent(s.vfio.devId);
        const hwptId = typeof parent === 'number' ? 0 : parent.hwptId;
        out.push({ rid: s.rid, pasid: NO_PASID, key: 'bypass', hwptId });
      }
      for (const slot of s.slots.list) {
        out.push({ rid: s.rid, pasid: slot.pasid, key: slot.domain.key, hwptId: slot.domain.hwptId });
      }
    }
    return out;
  }
}
