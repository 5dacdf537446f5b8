import type { FaultQueueAlloc, HwQueueAlloc, VdeviceAlloc, VeventqAlloc, ViommuAlloc } from '../../../ports/iommufd.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import type { DriverData } from '../../kernel/driver.ts';
import { AccessObject } from '../access.ts';
import type { IommufdContext, Respond } from '../context.ts';
import { FaultQueue } from '../fault-queue.ts';
import { HwQueue } from '../hw-queue.ts';
import { IOVA_LAST } from '../ioas/ranges.ts';
import { Vdevice } from '../vdevice.ts';
import { VeventQueue } from '../veventq.ts';
import { Viommu } from '../viommu.ts';
import { NO_DATA } from './hwpt.ts';

const MAX_DEPTH = 1 << 19;
const PAGE = 4096n;
/** The largest page array the kernel can allocate for a queue (INT_MAX bytes of pointers). */
const MAX_QUEUE_PAGES = 0x7fff_ffffn / 8n;

export function faultQueueAlloc(context: IommufdContext, c: FaultQueueAlloc, respond: Respond): number {
  if (c.flags !== 0) return -E.OPNOTSUPP;
  const id = context.objects.reserve();
  if (id === 0) return -E.NOMEM;
  const fault = new FaultQueue(() => context.drop());
  fault.id = id;
  context.hold();
  c.outFaultId = id;
  c.outFd = fault.fd;
  if (context.finish(fault, respond)) return 0;
  fault.fd.close();
  return -E.FAULT;
}

export function viommuAlloc(context: IommufdContext, c: ViommuAlloc, respond: Respond): number {
  if (c.flags !== 0 || c.type === 0) return -E.OPNOTSUPP;
  const { objects } = context;
  const device = objects.get(c.devId, 'device');
  if (device === null) return -E.NOENT;
  const { dev } = device;
  if (!dev.iommu.viommuSupported(dev, c.type)) return -E.OPNOTSUPP;
  const hwpt = objects.get(c.hwptId, 'hwpt_paging');
  if (hwpt === null) return -E.NOENT;
  if (!hwpt.nestParent) return -E.INVAL;
  const id = objects.reserve();
  if (id === 0) return -E.NOMEM;
  const viommu = new Viommu({ hwpt, iommu: dev.iommu, mmaps: context.mmaps });
  viommu.id = id;
  const user = c.data ?? NO_DATA;
  const data: DriverData | null = user.length > 0 ? { type: c.type, user } : null;
  const driver = dev.iommu.viommuInit(dev, c.type, hwpt.domain, data, viommu);
  if (typeof driver === 'number') {
    context.abort(viommu);
    return driver;
  }
  viommu.start(driver);
  c.outViommuId = viommu.id;
  return context.finish(viommu, respond) ? 0 : -E.FAULT;
}

export function vdeviceAlloc(context: IommufdContext, c: VdeviceAlloc, respond: Respond): number {
  const { objects } = context;
  const viommu = objects.get(c.viommuId, 'viommu');
  if (viommu === null) return -E.NOENT;
  const device = objects.get(c.devId, 'device');
  if (device === null) return -E.NOENT;
  if (viommu.iommu !== device.dev.iommu) return -E.INVAL;
  if (device.destroying) return -E.NOENT;
  if (device.vdevice !== null || (device.streamVdevices?.size ?? 0) > 0) return -E.EXIST;
  const id = objects.reserve();
  if (id === 0) return -E.NOMEM;
  const r = viommu.hasVirtId(c.virtId) ? -E.EXIST : viommu.driver.vdeviceInit(device.dev, c.virtId);
  if (r !== 0) {
    objects.release(id);
    return r;
  }
  const vdevice = new Vdevice(viommu, device, c.virtId);
  vdevice.id = id;
  c.outVdeviceId = id;
  return context.finish(vdevice, respond) ? 0 : -E.FAULT;
}

export function veventqAlloc(context: IommufdContext, c: VeventqAlloc, respond: Respond): number {
  if (c.flags !== 0 || c.reserved !== 0 || c.type === 0) return -E.OPNOTSUPP;
  if (c.depth === 0 || c.depth > MAX_DEPTH) return -E.INVAL;
  const viommu = context.objects.get(c.viommuId, 'viommu');
  if (viommu === null) return -E.NOENT;
  if (viommu.veventqs.some((q) => q.type === c.type)) return -E.EXIST;
  const id = context.objects.reserve();
  if (id === 0) return -E.NOMEM;
  const { type, depth } = c;
  const source = context.kernel.memory;
  const queue = new VeventQueue({ viommu, type, depth, source, onClose: () => context.drop() });
  queue.id = id;
  context.hold();
  c.outVeventqId = id;
  c.outFd = queue.fd;
  if (context.finish(queue, respond)) return 0;
  queue.fd.close();
  return -E.FAULT;
}

export function hwQueueAlloc(context: IommufdContext, c: HwQueueAlloc, respond: Respond): number {
  if (c.flags !== 0 || c.type === 0) return -E.OPNOTSUPP;
  if (c.length === 0n) return -E.INVAL;
  const iova = c.nestingParentIova;
  if (iova + c.length - 1n > IOVA_LAST) return -E.OVERFLOW;
  const { objects } = context;
  const viommu = objects.get(c.viommuId, 'viommu');
  if (viommu === null) return -E.NOENT;
  const ops = viommu.driver.hwQueues;
  if (ops === null || !ops.supported(c.type)) return -E.OPNOTSUPP;

  const access = new AccessObject(context.kernel.physical, true, null);
  const base = iova & -PAGE;
  const offset = iova - base;
  const bytes = offset + c.length + PAGE - 1n;
  const id = objects.reserve();
  if (id === 0) return -E.NOMEM;
  let r = bytes > IOVA_LAST ? -E.RANGE : bytes / PAGE > MAX_QUEUE_PAGES ? -E.NOMEM : 0;
  if (r === 0) {
    access.id = objects.reserve();
    if (access.id === 0) r = -E.NOMEM;
  }
  if (r !== 0) {
    objects.release(id);
    return r;
  }
  const pinned = (bytes / PAGE) * PAGE;
  const pages: number[] = [];
  r = access.change(viommu.hwpt.ioas);
  let pins = false;
  if (r === 0) {
    r = access.pin(base, pinned, false, pages);
    pins = r === 0;
  }
  for (let i = 1; r === 0 && i < pages.length; i++) if (pages[i] !== pages[i - 1]! + 4096) r = -E.FAULT;
  const release = () => {
    if (pins) access.unpin(base, pinned);
    access.change(null);
    if (objects.any(access.id) === access) objects.remove(access);
    else objects.release(access.id);
  };
  const handle = r === 0 ? ops.init(c.type, c.index, iova, pages[0]! + Number(offset), c.length) : r;
  if (typeof handle === 'number') {
    release();
    objects.release(id);
    return handle;
  }
  const queue = new HwQueue({ viommu, index: c.index, driver: handle, release });
  queue.id = id;
  // The access is visible, but its creator's reference keeps DESTROY away.
  objects.publish(access);
  c.outHwQueueId = id;
  return context.finish(queue, respond) ? 0 : -E.FAULT;
}
