import { E } from '../../../spec/iommufd/errno.ts';
import type { IommufdContext } from '../context.ts';
import { standsApart } from '../stream-attachment.ts';
import { StreamVdevice } from '../stream-vdevice.ts';

/**
 * @param stream index into the device's streams. @param vsid its StreamID as the guest knows it.
 * @returns the object's id, or -ENOENT no such vIOMMU or device, or it is being unbound; -EINVAL the vIOMMU is of another IOMMU, or there is no such stream;
 *   -EEXIST the stream has a name, its device has one, or the vIOMMU knows the name; -EBUSY the device is attached as a
 *   whole; -ENOMEM; -EOPNOTSUPP.
 */
export function allocStreamVdevice(
  context: IommufdContext,
  viommuId: number,
  devId: number,
  stream: number,
  vsid: number,
): number {
  const { objects } = context;
  const viommu = objects.get(viommuId, 'viommu');
  const device = objects.get(devId, 'device');
  if (viommu === null || device === null || device.destroying) return -E.NOENT;
  const { dev } = device;
  if (viommu.iommu !== dev.iommu || !(stream >= 0 && stream < dev.streams.length)) return -E.INVAL;
  if (device.vdevice !== null || device.streamVdevices?.has(stream) === true) return -E.EXIST;
  if (viommu.hasVirtId(BigInt(vsid))) return -E.EXIST;
  const apart = standsApart(device);
  if (apart !== 0) return apart;
  const id = objects.reserve();
  if (id === 0) return -E.NOMEM;
  const r = viommu.driver.streamInit?.(dev, stream, vsid) ?? -E.OPNOTSUPP;
  if (r !== 0) {
    objects.release(id);
    return r;
  }
  const vdevice = new StreamVdevice(viommu, device, stream, vsid);
  vdevice.id = id;
  objects.publish(vdevice);
  return id;
}
