import type * as Port from '../../ports/iommufd.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { HostKernel } from '../kernel/kernel.ts';
import { IommufdContext, type Respond, respondAlways } from './context.ts';
import { freeDoorbells } from './reserved.ts';
import { getDirtyBitmap, getHwInfo, hwptAlloc, setDirtyTracking } from './verbs/hwpt.ts';
import { Invalidator } from './verbs/invalidate.ts';
import * as ioasVerbs from './verbs/ioas.ts';
import * as mapVerbs from './verbs/map.ts';
import { changeProcess } from './verbs/process.ts';
import * as viommuVerbs from './verbs/viommu.ts';

/** Driver data as one number, for whoever listens; larger data is left out. */
function shown(data: Port.UserData | null): { readonly data?: bigint } {
  const bytes = new Uint8Array(data === null || data.length > 64 ? 0 : data.length);
  if (data === null || bytes.length === 0 || !data.copyIn(0, bytes)) return {};
  let value = 0n;
  for (const byte of bytes.toReversed()) value = (value << 8n) | BigInt(byte);
  return { data: value };
}

/**
 * One open /dev/iommu. Every verb takes an optional last argument that copies the answer to the caller's memory; when it
 * says false the verb takes back what it made and answers -EFAULT.
 */
export class IommufdFile implements Port.Iommufd {
  /** @internal */
  readonly context: IommufdContext;
  readonly #invalidator: Invalidator;
  readonly #closing = new Set<() => void>();
  #open = true;

  /** @param privileged the owner has CAP_SYS_RESOURCE. */
  constructor(kernel: HostKernel, memory: Port.UserMemory, privileged = true) {
    this.context = new IommufdContext(kernel, memory, privileged);
    this.#invalidator = new Invalidator(this.context);
  }

  #said(verb: string, args: Readonly<Record<string, number | bigint | string>>, result: number): number {
    this.context.kernel.tell?.({ what: 'host', verb, args, result });
    return result;
  }
  get #heard(): boolean {
    return this.context.kernel.tell !== null;
  }

  destroy(id: number): number {
    const object = this.context.objects.any(id);
    let r = 0;
    if (object === null) r = -E.NOENT;
    else if (object.users > 0) r = -E.BUSY;
    else {
      this.context.objects.remove(object);
      if (object.kind === 'hwpt_paging') freeDoorbells(this.context);
    }
    return this.#heard ? this.#said('DESTROY', { id }, r) : r;
  }

  ioasAlloc(c: Port.IoasAlloc, respond: Respond = respondAlways): number {
    if (c.flags !== 0) return this.#said('IOAS_ALLOC', { flags: c.flags }, -E.OPNOTSUPP);
    const ioas = ioasVerbs.newIoas(this.context);
    if (ioas === null) return this.#said('IOAS_ALLOC', { flags: c.flags }, -E.NOMEM);
    c.outIoasId = ioas.id;
    const r = this.context.finish(ioas, respond) ? 0 : -E.FAULT;
    return this.#said('IOAS_ALLOC', { id: c.outIoasId }, r);
  }

  ioasIovaRanges(c: Port.IoasIovaRanges, respond: Respond = respondAlways): number {
    if (c.reserved !== 0) return -E.OPNOTSUPP;
    const ioas = this.context.objects.get(c.ioasId, 'ioas');
    if (ioas === null) return -E.NOENT;
    const ranges = ioas.ranges();
    const given = c.numIovas;
    c.allowed = ranges.slice(0, given).map((r) => ({ start: r.start, last: r.last }));
    c.numIovas = ranges.length;
    c.outIovaAlignment = BigInt(ioas.alignment);
    if (!respond()) return -E.FAULT;
    return ranges.length > given ? -E.MSGSIZE : 0;
  }

  ioasAllowIovas(c: Port.IoasAllowIovas): number {
    const read: ioasVerbs.ReadRange = (i) => c.allowed[i]!;
    const r = ioasVerbs.allowIovas(this.context, c.ioasId, c.reserved, c.allowed.length, read);
    return this.#said('IOAS_ALLOW_IOVAS', { ioas: c.ioasId, count: c.allowed.length }, r);
  }

  ioasMap(c: Port.IoasMap, respond: Respond = respondAlways): number {
    const r = mapVerbs.ioasMap(this.context, c, respond);
    if (!this.#heard) return r;
    const { flags, ioasId, userVa, length, iova } = c;
    return this.#said('IOAS_MAP', { ioas: ioasId, flags, userVa, length, iova }, r);
  }

  ioasMapFile(c: Port.IoasMapFile, respond: Respond = respondAlways): number {
    const r = mapVerbs.ioasMapFile(this.context, c, respond);
    if (!this.#heard) return r;
    const { flags, ioasId, start, length, iova } = c;
    return this.#said('IOAS_MAP_FILE', { ioas: ioasId, flags, start, length, iova }, r);
  }

  ioasCopy(c: Port.IoasCopy, respond: Respond = respondAlways): number {
    const r = mapVerbs.ioasCopy(this.context, c, respond);
    if (!this.#heard) return r;
    const { flags, dstIoasId, srcIoasId, length, dstIova, srcIova } = c;
    return this.#said('IOAS_COPY', { flags, dst: dstIoasId, src: srcIoasId, length, dstIova, srcIova }, r);
  }

  ioasUnmap(c: Port.IoasUnmap, respond: Respond = respondAlways): number {
    const { ioasId, iova, length } = c;
    const r = mapVerbs.ioasUnmap(this.context, c, respond);
    return this.#heard ? this.#said('IOAS_UNMAP', { ioas: ioasId, iova, length }, r) : r;
  }

  ioasChangeProcess(reserved: number): number {
    return changeProcess(this.context, reserved);
  }

  vfioIoas(c: Port.VfioIoas, respond: Respond = respondAlways): number {
    return ioasVerbs.vfioIoas(this.context, c, respond);
  }

  option(c: Port.IommufdOption, respond: Respond = respondAlways): number {
    const r = ioasVerbs.option(this.context, c, respond);
    return this.#said('OPTION', { option: c.optionId, op: c.op, object: c.objectId, val: c.val64 }, r);
  }

  hwptAlloc(c: Port.HwptAlloc, respond: Respond = respondAlways): number {
    const r = hwptAlloc(this.context, c, respond);
    if (!this.#heard) return r;
    const { flags, devId, ptId, dataType, faultId, outHwptId } = c;
    return this.#said(
      'HWPT_ALLOC',
      { flags, dev: devId, pt: ptId, type: dataType, fault: faultId, hwpt: outHwptId, ...shown(c.data) },
      r,
    );
  }

  hwptInvalidate(c: Port.HwptInvalidate, respond: Respond = respondAlways): number {
    let r = -E.OPNOTSUPP;
    const entries = c.entryNum;
    if (c.reserved === 0) {
      r = this.#invalidator.user(c.hwptId, c.dataType, c.data, c.entryLen, c.entryNum);
      c.entryNum = this.#invalidator.done;
    } else c.entryNum = 0;
    if (!respond()) r = -E.FAULT;
    if (!this.#heard) return r;
    return this.#said('HWPT_INVALIDATE', { id: c.hwptId, type: c.dataType, entries, done: c.entryNum }, r);
  }

  invalidate(
    id: number,
    dataType: number,
    words: Int32Array,
    start: number,
    entryLen: number,
    entryNum: number,
  ): number {
    const r = this.#invalidator.words(id, dataType, words, start, entryLen, entryNum);
    if (!this.#heard) return r;
    return this.#said('HWPT_INVALIDATE', { id, type: dataType, entries: entryNum, done: this.#invalidator.done }, r);
  }
  get invalidated(): number {
    return this.#invalidator.done;
  }

  getHwInfo(c: Port.GetHwInfo, respond: Respond = respondAlways, reserved = 0): number {
    return this.#said('GET_HW_INFO', { dev: c.devId }, getHwInfo(this.context, c, reserved, respond));
  }

  setDirtyTracking(c: Port.SetDirtyTracking): number {
    return this.#said('SET_DIRTY_TRACKING', { hwpt: c.hwptId, flags: c.flags }, setDirtyTracking(this.context, c));
  }

  getDirtyBitmap(c: Port.GetDirtyBitmap): number {
    const { hwptId, iova, length } = c;
    return this.#said('GET_DIRTY_BITMAP', { hwpt: hwptId, iova, length }, getDirtyBitmap(this.context, c));
  }

  faultQueueAlloc(c: Port.FaultQueueAlloc, respond: Respond = respondAlways): number {
    const r = viommuVerbs.faultQueueAlloc(this.context, c, respond);
    return this.#said('FAULT_QUEUE_ALLOC', { id: c.outFaultId }, r);
  }

  viommuAlloc(c: Port.ViommuAlloc, respond: Respond = respondAlways): number {
    const r = viommuVerbs.viommuAlloc(this.context, c, respond);
    return this.#said('VIOMMU_ALLOC', { type: c.type, dev: c.devId, hwpt: c.hwptId, id: c.outViommuId }, r);
  }

  vdeviceAlloc(c: Port.VdeviceAlloc, respond: Respond = respondAlways): number {
    const r = viommuVerbs.vdeviceAlloc(this.context, c, respond);
    return this.#said('VDEVICE_ALLOC', { viommu: c.viommuId, dev: c.devId, virtId: c.virtId, id: c.outVdeviceId }, r);
  }

  veventqAlloc(c: Port.VeventqAlloc, respond: Respond = respondAlways): number {
    const r = viommuVerbs.veventqAlloc(this.context, c, respond);
    return this.#said('VEVENTQ_ALLOC', { viommu: c.viommuId, type: c.type, depth: c.depth, id: c.outVeventqId }, r);
  }

  hwQueueAlloc(c: Port.HwQueueAlloc, respond: Respond = respondAlways): number {
    const r = viommuVerbs.hwQueueAlloc(this.context, c, respond);
    return this.#said('HW_QUEUE_ALLOC', { viommu: c.viommuId, type: c.type, index: c.index, id: c.outHwQueueId }, r);
  }

  whenClosed(action: () => void): () => void {
    this.#closing.add(action);
    return () => this.#closing.delete(action);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    for (const action of [...this.#closing]) action();
    this.context.drop();
  }
}
