import { hiWord, loWord } from '../../../src/core/bits.ts';
import { AddressSpace, ramBacking } from '../../../src/lib/memory/address-space.ts';
import { VtdWalker } from '../../../src/lib/walk/vtd.ts';
import { VtdRegime } from '../../../src/lib/walk/vtd-regime.ts';
import { ACCESS, NO_PASID } from '../../../src/ports/dma.ts';
import type { EventFd, Iommufd, VfioDevice } from '../../../src/ports/iommufd.ts';
import type { HostUpcalls, UpcallHandlers } from '../../../src/ports/upcalls.ts';
import { frcdWord2, frcdWord3 } from '../../../src/spec/vtd/faults.ts';
import { PGTT } from '../../../src/spec/vtd/tables.ts';

interface Area {
  readonly iova: bigint;
  readonly length: bigint;
  readonly va: bigint;
  readonly flags: number;
}
interface Ioas {
  readonly kind: 'ioas';
  areas: Area[];
}
interface Paging {
  readonly kind: 'paging';
  readonly ioas: number;
  readonly flags: number;
}
interface Nested {
  readonly kind: 'nested';
  readonly parent: number;
  readonly root: number;
  readonly levels: number;
  readonly flags: number;
  readonly fault: number;
}

export interface FakeFault {
  readonly devId: number;
  readonly pasid: number;
  readonly group: number;
  readonly perm: number;
  readonly addr: bigint;
  readonly last: boolean;
  readonly cookie: number;
}

export const RAM_BYTES = 64 << 20;
const VA = 0x7000_0000_0000n;

/** A host just large enough for the device: iommufd's objects, and hardware without caches that asks as the real one does. */
export class FakeHost {
  readonly memory = new AddressSpace();
  readonly log: string[] = [];
  readonly objects = new Map<number, Ioas | Paging | Nested>();
  /** `devId/pasid` → HWPT. */
  readonly attached = new Map<string, number>();
  readonly messages: { address: number; data: number }[] = [];
  readonly responses: string[] = [];
  readonly deviceTlb: string[] = [];
  readonly iommufd: Iommufd;
  readonly upcalls: HostUpcalls;
  handlers: UpcallHandlers | null = null;
  pending = 0;
  /** Functions have PRI. */
  pri = true;
  ramIoas = 0;
  pasidBits = 20;
  #next = 1;
  #devices = 0;
  readonly #rids = new Map<number, number>();
  readonly #shadows = new Set<number>();

  readonly ramBytes: number;

  constructor(ramBytes = RAM_BYTES) {
    this.ramBytes = ramBytes;
    this.memory.addRam(0, ramBytes, ramBacking(ramBytes));
    this.iommufd = this.#verbs();
    this.upcalls = {
      serve: (_ids, h) => {
        this.handlers = h;
        return () => {};
      },
      outstanding: () => this.pending,
      streamVdevice: () => -95,
      attachStream: () => -95,
      shadow: (id, on) => {
        if (on) this.#shadows.add(id);
        else this.#shadows.delete(id);
        return 0;
      },
      respond: (devId, pasid, group, code) => {
        this.responses.push(`${this.#rids.get(devId)} ${pasid} ${group} ${code}`);
        return 0;
      },
      invalidateDeviceTlb: (devId, pasid, lo, hi, global) => {
        const address = ((BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0)).toString(16);
        this.deviceTlb.push(`${this.#rids.get(devId)} ${pasid} 0x${address} ${global}`);
        return 0;
      },
    };
    this.ramIoas = this.#add({ kind: 'ioas', areas: [] });
    this.#ioas(this.ramIoas)!.areas.push({ iova: 0n, length: BigInt(ramBytes), va: VA, flags: 7 });
  }

  #add(o: Ioas | Paging | Nested): number {
    const id = this.#next++;
    this.objects.set(id, o);
    return id;
  }

  #ioas(id: number): Ioas | null {
    const o = this.objects.get(id);
    return o?.kind === 'ioas' ? o : null;
  }

  #verbs(): Iommufd {
    const no = (): number => -95;
    return {
      destroy: (id) => {
        for (const [where, hwpt] of this.attached) if (hwpt === id) throw new Error(`destroyed while on ${where}`);
        for (const o of this.objects.values()) {
          if ((o.kind === 'nested' && o.parent === id) || (o.kind === 'paging' && o.ioas === id)) return -16;
        }
        this.log.push(`destroy ${id}`);
        return this.objects.delete(id) ? 0 : -2;
      },
      ioasAlloc: (c) => {
        c.outIoasId = this.#add({ kind: 'ioas', areas: [] });
        this.log.push(`ioas ${c.outIoasId}`);
        return 0;
      },
      ioasIovaRanges: no,
      ioasAllowIovas: no,
      ioasCopy: no,
      ioasMapFile: no,
      ioasChangeProcess: no,
      vfioIoas: no,
      option: no,
      hwptInvalidate: no,
      setDirtyTracking: no,
      getDirtyBitmap: no,
      faultQueueAlloc: (c) => {
        c.outFaultId = this.#add({ kind: 'ioas', areas: [] });
        c.outFd = this.#faultFd;
        return 0;
      },
      viommuAlloc: no,
      vdeviceAlloc: no,
      veventqAlloc: no,
      hwQueueAlloc: no,
      invalidated: 0,
      close: () => {},
      ioasMap: (c) => {
        const ioas = this.#ioas(c.ioasId);
        if (ioas === null) return -2;
        const end = c.iova + c.length;
        if (c.iova < 0xfef0_0000n && 0xfee0_0000n < end) return -22;
        if (ioas.areas.some((a) => a.iova < end && c.iova < a.iova + a.length)) return -17;
        ioas.areas.push({ iova: c.iova, length: c.length, va: c.userVa, flags: c.flags });
        this.log.push(`map ${c.ioasId} 0x${c.iova.toString(16)}+0x${c.length.toString(16)} ${c.flags >> 1}`);
        return 0;
      },
      ioasUnmap: (c) => {
        const ioas = this.#ioas(c.ioasId);
        if (ioas === null) return -2;
        const end = c.iova + c.length;
        const inside = ioas.areas.filter((a) => a.iova >= c.iova && a.iova + a.length <= end);
        if (ioas.areas.some((a) => a.iova < end && c.iova < a.iova + a.length && !inside.includes(a))) return -2;
        if (inside.length === 0) return -2;
        ioas.areas = ioas.areas.filter((a) => !inside.includes(a));
        this.log.push(`unmap ${c.ioasId} 0x${c.iova.toString(16)}+0x${c.length.toString(16)}`);
        return 0;
      },
      hwptAlloc: (c) => {
        const on = this.objects.get(c.ptId);
        if (on === undefined) return -22;
        if (on.kind === 'ioas') {
          c.outHwptId = this.#add({ kind: 'paging', ioas: c.ptId, flags: c.flags });
          this.log.push(`hwpt ${c.outHwptId} on ioas ${c.ptId} flags ${c.flags}`);
          return 0;
        }
        if (on.kind !== 'paging' || (on.flags & 1) === 0 || c.data === null || c.dataType !== 1) return -22;
        const bytes = new Uint8Array(24);
        c.data.copyIn(0, bytes);
        const d = new DataView(bytes.buffer);
        const root = Number(d.getBigUint64(8, true));
        const levels = d.getUint32(16, true) === 57 ? 5 : 4;
        const flags = d.getUint32(0, true);
        const fault = (c.flags & 4) !== 0 ? c.faultId : 0;
        c.outHwptId = this.#add({ kind: 'nested', parent: c.ptId, root, levels, flags, fault });
        this.log.push(
          `nested ${c.outHwptId} on ${c.ptId} root 0x${root.toString(16)} levels ${levels} flags ${flags}${fault === 0 ? '' : ` fault ${fault}`}`,
        );
        return 0;
      },
      invalidate: (id, _type, w, at) => {
        if (this.objects.get(id)?.kind !== 'nested') return -2;
        const u64 = (i: number): bigint => (BigInt(w[at + i + 1]! >>> 0) << 32n) | BigInt(w[at + i]! >>> 0);
        const all = u64(2) === 0xffff_ffff_ffff_ffffn;
        this.log.push(`invalidate ${id} ${all ? 'all' : `0x${u64(0).toString(16)} ${u64(2)} leaf ${w[at + 4]}`}`);
        return 0;
      },
      getHwInfo: (c) => {
        c.outMaxPasidLog2 = this.pasidBits;
        return 0;
      },
    };
  }

  vfio(rid: number): VfioDevice {
    const devId = 1000 + this.#devices++;
    this.#rids.set(devId, rid);
    const name = (pasid: number): string => (pasid === NO_PASID ? `${rid}` : `${rid}/${pasid}`);
    return {
      devId,
      ptId: 0,
      bind: () => 0,
      attach: (ptId, pasid) => {
        const o = this.objects.get(ptId);
        if (o === undefined) return -2;
        if (o.kind === 'nested' && o.fault !== 0 && !this.pri) return -19;
        this.attached.set(`${devId}/${pasid}`, ptId);
        this.log.push(`attach ${name(pasid)} ${ptId}`);
        return 0;
      },
      detach: (pasid) => {
        if (this.attached.delete(`${devId}/${pasid}`)) this.log.push(`detach ${name(pasid)}`);
        return 0;
      },
      close: () => {},
    };
  }

  readonly #faults: Uint8Array[] = [];
  readonly #faultFd: EventFd = {
    onReadable: null,
    poll: () => 0,
    close: () => {},
    read: (into) => {
      const f = this.#faults.shift();
      if (f === undefined) return 0;
      into.set(f);
      return f.length;
    },
    write: (from) => {
      const d = new DataView(from.buffer, from.byteOffset);
      this.responses.push(`cookie ${d.getUint32(0, true)} code ${d.getUint32(4, true)}`);
      return from.length;
    },
  };

  /** A page request the kernel puts into the fault queue. */
  fault(f: FakeFault): void {
    const d = new DataView(new ArrayBuffer(40));
    d.setUint32(0, (f.pasid >= 0 ? 1 : 0) | (f.last ? 2 : 0), true);
    d.setUint32(4, f.devId, true);
    d.setUint32(8, f.pasid, true);
    d.setUint32(12, f.group, true);
    d.setUint32(16, f.perm, true);
    d.setBigUint64(24, f.addr, true);
    d.setUint32(36, f.cookie, true);
    this.#faults.push(new Uint8Array(d.buffer));
    this.#faultFd.onReadable?.();
  }

  /** Takes the log so far. */
  took(): string[] {
    return this.log.splice(0);
  }

  /** One DMA access as the hardware does it, without any cache. @returns the guest-physical address, or -1: refused. */
  dma(rid: number, pasid: number, iova: number, access: number): number {
    const devId = [...this.#rids].find(([, r]) => r === rid)![0];
    for (let round = 0; round < 8; round++) {
      const hwpt = this.attached.get(`${devId}/${pasid}`);
      if (hwpt === undefined) {
        if (this.handlers?.onStreamMiss?.(devId, 0, pasid) !== true)
          return this.#refuse(devId, rid, pasid, iova, access);
        continue;
      }
      const out = this.#through(hwpt, iova, access);
      if (out >= 0) return out;
      if (this.#missIpa < 0) return this.#refuse(devId, rid, pasid, iova, access);
      const h = this.handlers;
      const lo = loWord(iova % 2 ** 32);
      if (!this.#shadows.has(this.#missHwpt)) return this.#refuse(devId, rid, pasid, iova, access);
      if (h?.onStageTwoMiss?.(devId, 0, pasid, this.#missIpa, this.#missAccess, lo, hiWord(iova)) !== true) {
        return this.#refuse(devId, rid, pasid, iova, access);
      }
    }
    throw new Error('the device keeps saying "retry"');
  }

  #missIpa = -1;
  #missAccess = 0;
  #missHwpt = 0;

  #refuse(devId: number, rid: number, pasid: number, iova: number, access: number): number {
    const w = Int32Array.of(
      loWord(iova % 2 ** 32) & ~0xfff,
      hiWord(iova),
      frcdWord2(rid, pasid, false, false),
      frcdWord3((access & ACCESS.READ) !== 0, 0, pasid, 0),
    );
    this.handlers?.onFault?.(devId, 0, w);
    return -1;
  }

  #through(hwpt: number, iova: number, access: number): number {
    const o = this.objects.get(hwpt)!;
    this.#missIpa = -1;
    if (o.kind === 'paging') return this.#lookup(hwpt, o, iova, access);
    if (o.kind !== 'nested') return -1;
    const r = new VtdRegime();
    r.pgtt = PGTT.FIRST;
    r.firstRoot = o.root;
    r.firstBits = o.levels === 5 ? 57 : 48;
    const limits = { haw: 52, ss2m: true, ss1g: true, fs1g: true, snp: false, tm: false };
    const parent = this.objects.get(o.parent) as Paging;
    // First-stage tables are read through the parent, so each table page may miss.
    const through = new ThroughParent(this.memory, (ipa) => this.#lookup(o.parent, parent, ipa, ACCESS.READ));
    const walker = new VtdWalker(through as unknown as AddressSpace, limits);
    const ok = walker.walk(r, loWord(iova % 2 ** 32), hiWord(iova), access);
    if (through.missed) return -1;
    this.#missIpa = -1;
    return ok ? this.#lookup(o.parent, parent, walker.out, access) : -1;
  }

  #lookup(hwpt: number, o: Paging, ipa: number, access: number): number {
    const b = BigInt(ipa);
    const a = this.#ioas(o.ioas)!.areas.find((x) => b >= x.iova && b < x.iova + x.length);
    const need = ((access & ACCESS.WRITE) !== 0 ? 2 : 0) | ((access & ACCESS.READ) !== 0 ? 4 : 0);
    if (a !== undefined && (need & ~a.flags) === 0) return Number(a.va - VA + (b - a.iova));
    this.#missIpa = ipa - (ipa % 4096);
    this.#missAccess = access;
    this.#missHwpt = hwpt;
    return -1;
  }

  /** Every page of an IOAS as `iova page → gpa page`. */
  pages(ioas: number): Map<number, number> {
    const out = new Map<number, number>();
    for (const a of this.#ioas(ioas)?.areas ?? []) {
      for (let at = 0n; at < a.length; at += 4096n)
        out.set(Number((a.iova + at) / 4096n), Number((a.va - VA + at) / 4096n));
    }
    return out;
  }

  userVa(gpa: number): bigint {
    return gpa < this.ramBytes ? VA + BigInt(gpa) : -1n;
  }

  roomAt(gpa: number): number {
    return gpa >= 0 && gpa < this.ramBytes ? this.ramBytes - gpa : 0;
  }
}

/** Guest memory seen through a nest parent: a page the parent lacks reads as an abort. */
class ThroughParent {
  lo = 0;
  hi = 0;
  missed = false;
  readonly #memory: AddressSpace;
  readonly #find: (ipa: number) => number;

  constructor(memory: AddressSpace, find: (ipa: number) => number) {
    this.#memory = memory;
    this.#find = find;
  }

  locate(): boolean {
    return false;
  }

  load64(addr: number): boolean {
    const at = this.#find(addr);
    this.missed ||= at < 0;
    if (at < 0 || !this.#memory.load64(at)) return false;
    this.lo = this.#memory.lo;
    this.hi = this.#memory.hi;
    return true;
  }

  store64(addr: number, lo: number, hi: number): boolean {
    const at = this.#find(addr);
    return at >= 0 && this.#memory.store64(at, lo, hi);
  }
}
