import type { Iommufd, VfioDevice } from '../../../src/ports/iommufd.ts';
import type { HostUpcalls, UpcallHandlers } from '../../../src/ports/upcalls.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';

/** Kernel sub-batches: this many commands are converted before they are issued. */
const SUB_BATCH = 63;

/**
 * A host that does nothing but give ids, keep reference rules the device relies on, and write down what it was asked. It
 * repeats the kernel's way of counting in HWPT_INVALIDATE: commands converted before a refused one count and were never
 * issued. `refuse` makes a command fail, `failing` a verb.
 */
export class FakeHost {
  /** `verb arg arg → result`, in order. */
  readonly calls: string[] = [];
  /** Commands that reached the hardware, as words, with the vIOMMU they came through. */
  readonly issued: { viommu: number; words: number[] }[] = [];
  readonly kinds = new Map<number, string>();
  /** ioas id → mapped areas. */
  readonly maps = new Map<number, { iova: number; length: number; va: bigint; flags: number }[]>();
  readonly failing = new Map<string, number>();
  refuse: (words: Int32Array, at: number) => boolean = () => false;
  readonly handlers = new Map<number, UpcallHandlers>();
  outstanding = 0;
  /** IDR0 to IDR5 of its SMMU: everything a guest can be shown. */
  idr = [0xccd349b, 0x2739d10, 0, 0x1414, 0, 0x75];
  /** Streams whose stalls were to end. */
  readonly terminated: string[] = [];
  readonly responses: string[] = [];
  readonly shadows = new Set<number>();
  #next = 1;
  readonly #attached = new Map<number, number>();

  #id(kind: string): number {
    const id = this.#next++;
    this.kinds.set(id, kind);
    return id;
  }

  #say(verb: string, args: string, result: number): number {
    this.calls.push(`${verb} ${args}${result < 0 ? ` → ${result}` : ''}`);
    return result;
  }

  #failed(verb: string): number {
    return this.failing.get(verb) ?? 0;
  }

  /** How many calls of a verb there were. */
  count(verb: string): number {
    return this.calls.filter((c) => c.startsWith(`${verb} `)).length;
  }

  /** HWPT a device is attached to; 0: none. */
  attachedTo(devId: number): number {
    return this.#attached.get(devId) ?? 0;
  }

  ioas(): number {
    const id = this.#id('ioas');
    this.maps.set(id, []);
    return id;
  }

  readonly fd: Iommufd = this.#iommufd();

  #iommufd(): Iommufd {
    const host = this;
    const no = () => -E.OPNOTSUPP;
    return {
      destroy(id) {
        const used = [...host.#attached.values()].includes(id);
        const r = host.#failed('DESTROY') || (!host.kinds.has(id) ? -E.NOENT : used ? -E.BUSY : 0);
        if (r === 0) host.kinds.delete(id);
        return host.#say('DESTROY', `${id}`, r);
      },
      ioasAlloc(c) {
        const r = host.#failed('IOAS_ALLOC');
        if (r === 0) c.outIoasId = host.ioas();
        return host.#say('IOAS_ALLOC', `${c.outIoasId}`, r);
      },
      ioasMap(c) {
        const list = host.maps.get(c.ioasId);
        const iova = Number(c.iova);
        const length = Number(c.length);
        const busy = list?.some((a) => a.iova < iova + length && iova < a.iova + a.length);
        const r = host.#failed('IOAS_MAP') || (list === undefined ? -E.NOENT : busy ? -E.EXIST : 0);
        if (r === 0) list!.push({ iova, length, va: c.userVa, flags: c.flags });
        return host.#say('IOAS_MAP', `${c.ioasId} ${iova.toString(16)}+${length.toString(16)}`, r);
      },
      ioasUnmap(c) {
        const list = host.maps.get(c.ioasId)!;
        const failed = host.#failed('IOAS_UNMAP');
        if (failed !== 0) return host.#say('IOAS_UNMAP', `${c.ioasId}`, failed);
        if (c.iova === 0n && c.length === 0xffff_ffff_ffff_ffffn) {
          list.length = 0;
          return host.#say('IOAS_UNMAP', `${c.ioasId} all`, 0);
        }
        const at = list.findIndex((a) => a.iova === Number(c.iova) && a.length === Number(c.length));
        if (at >= 0) list.splice(at, 1);
        const r = at < 0 ? -E.NOENT : 0;
        return host.#say('IOAS_UNMAP', `${c.ioasId} ${c.iova.toString(16)}+${c.length.toString(16)}`, r);
      },
      hwptAlloc(c) {
        let r = host.#failed('HWPT_ALLOC');
        const vste = new Int32Array(4);
        c.data?.copyIn(0, new Uint8Array(vste.buffer));
        if (r === 0) c.outHwptId = host.#id(`hwpt on ${c.ptId}`);
        if (!host.kinds.has(c.ptId)) r = -E.INVAL;
        const words = c.data === null ? '' : ` ${Array.from(vste, (w) => (w >>> 0).toString(16)).join(',')}`;
        return host.#say('HWPT_ALLOC', `${c.ptId}${words}`, r);
      },
      viommuAlloc(c) {
        const r = host.#failed('VIOMMU_ALLOC');
        if (r === 0) c.outViommuId = host.#id(`viommu on ${c.hwptId}`);
        return host.#say('VIOMMU_ALLOC', `${c.hwptId}`, r);
      },
      vdeviceAlloc(c) {
        const r = host.#failed('VDEVICE_ALLOC');
        if (r === 0) c.outVdeviceId = host.#id(`vdevice in ${c.viommuId}`);
        return host.#say('VDEVICE_ALLOC', `${c.viommuId} vsid=${c.virtId}`, r);
      },
      veventqAlloc(c) {
        c.outVeventqId = host.#id('veventq');
        c.outFd = { read: () => 0, write: () => 0, poll: () => 0, onReadable: null, close: () => {} };
        return host.#say('VEVENTQ_ALLOC', `${c.viommuId}`, 0);
      },
      invalidate(id, _type, words, start, _len, count) {
        host.#say('HWPT_INVALIDATE', `${id} n=${count}`, 0);
        const failed = host.#failed('HWPT_INVALIDATE');
        if (failed !== 0) return failed;
        for (let i = 0; i < count; i++) {
          if (host.refuse(words, start + 4 * i)) {
            this.invalidated = i;
            host.#issue(id, words, start, i - (i % SUB_BATCH));
            return -E.IO;
          }
        }
        this.invalidated = count;
        host.#issue(id, words, start, count);
        return 0;
      },
      invalidated: 0,
      ioasIovaRanges: no,
      ioasAllowIovas: no,
      ioasCopy: no,
      option: no,
      hwptInvalidate: no,
      getHwInfo(c) {
        c.data?.copyOut(0, new Uint8Array(Uint32Array.from([0, 0, ...host.idr, 0, 1]).buffer));
        return host.failing.get('GET_HW_INFO') ?? 0;
      },
      setDirtyTracking: no,
      getDirtyBitmap: no,
      faultQueueAlloc: no,
      hwQueueAlloc: no,
      ioasMapFile: no,
      ioasChangeProcess: no,
      vfioIoas: no,
      close: () => {},
    } as { -readonly [K in keyof Iommufd]: Iommufd[K] };
  }

  #issue(viommu: number, words: Int32Array, start: number, count: number): void {
    for (let i = 0; i < count; i++) {
      this.issued.push({ viommu, words: Array.from(words.subarray(start + 4 * i, start + 4 * i + 4), (w) => w >>> 0) });
    }
  }

  /** A device file bound to nothing yet. */
  device(): VfioDevice {
    const host = this;
    return {
      devId: 0,
      ptId: 0,
      bind() {
        this.devId = host.#id('device');
        return 0;
      },
      attach(ptId) {
        const r = host.#failed('ATTACH') || (host.kinds.has(ptId) ? 0 : -E.NOENT);
        if (r === 0) {
          this.ptId = ptId;
          host.#attached.set(this.devId, ptId);
        }
        return host.#say('ATTACH', `${this.devId} ${ptId}`, r);
      },
      detach() {
        const failed = host.#failed('DETACH');
        if (failed !== 0) return host.#say('DETACH', `${this.devId}`, failed);
        host.#attached.delete(this.devId);
        this.ptId = 0;
        return host.#say('DETACH', `${this.devId}`, 0);
      },
      close: () => {},
    } as { -readonly [K in keyof VfioDevice]: VfioDevice[K] };
  }

  readonly upcalls: HostUpcalls = {
    serve: (ids, handlers) => {
      for (const id of ids) this.handlers.set(id, handlers);
      return () => {
        for (const id of ids) this.handlers.delete(id);
      };
    },
    outstanding: () => this.outstanding,
    streamVdevice: (viommu, devId, stream, vsid) => {
      const r = this.#failed('STREAM_VDEVICE') || this.#id(`vdevice in ${viommu}`);
      return this.#say('STREAM_VDEVICE', `${viommu} ${devId}.${stream} vsid=${vsid}`, r);
    },
    attachStream: (devId, stream, pt) => {
      const r = this.#failed('ATTACH_STREAM') || (pt === 0 || this.kinds.has(pt) ? 0 : -E.INVAL);
      return this.#say('ATTACH_STREAM', `${devId}.${stream} ${pt}`, r);
    },
    shadow: (id, on) => {
      if (on) this.shadows.add(id);
      else this.shadows.delete(id);
      return 0;
    },
    terminateStalls: (devId, stream) => {
      this.terminated.push(`${devId} stream=${stream}`);
      return 0;
    },
    respond: (devId, pasid, group, code, stall) => {
      this.responses.push(`${devId} pasid=${pasid} group=${group} code=${code}${stall ? ' stall' : ''}`);
      return 0;
    },
  };
}
