import { FAILURE_STEP } from '../../ports/failures.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { KernelDevice } from '../kernel/device.ts';
import type { IommufdContext } from './context.ts';
import { IommufdDevice, IommufdGroup } from './device.ts';

/**
 * `iommufd_device_bind`. @returns the device (published), or -EINVAL its DMA is not coherent; -ENODEV no group; -EPERM its
 * interrupts are not isolated, or another context owns the group; -EBUSY the kernel uses the group; -ENOMEM.
 */
export function bindDevice(context: IommufdContext, dev: KernelDevice): IommufdDevice | number {
  if (!dev.cacheCoherent) return -E.INVAL;
  if (!dev.grouped) return -E.NODEV;
  if (!dev.msiIsolated && !context.kernel.allowUnsafeInterrupts) return -E.PERM;
  const r = dev.group.claim(context);
  if (r !== 0) return r;
  const known = context.groups.get(dev.group);
  const id = known === undefined && context.kernel.fails(FAILURE_STEP.GROUP) ? 0 : context.objects.reserve();
  if (id === 0) {
    dev.group.release();
    return -E.NOMEM;
  }
  const group = known ?? new IommufdGroup(dev.group);
  if (known === undefined) context.groups.set(dev.group, group);
  const device = new IommufdDevice({ dev, group, groups: context.groups, source: context.kernel.memory });
  device.id = id;
  dev.devId = device.id;
  dev.binding = device;
  context.objects.publish(device);
  return device;
}

/** `iommufd_device_unbind`: live vDEVICEs, of single streams too, die and leave tombstones. Everything must be detached. */
export function unbindDevice(context: IommufdContext, device: IommufdDevice): void {
  device.destroying = true;
  const vdevice = device.vdevice === null ? null : context.objects.get(device.vdevice.id, 'vdevice');
  if (vdevice !== null) context.objects.remove(vdevice, true);
  for (const { id } of [...(device.streamVdevices?.values() ?? [])]) {
    const named = context.objects.get(id, 'stream_vdevice');
    if (named !== null) context.objects.remove(named, true);
  }
  device.users--;
  context.objects.remove(device);
}
