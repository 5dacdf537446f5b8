import type { Undo } from '../../core/undo.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { MAP_PROT } from '../kernel/driver.ts';
import type { IommufdContext } from './context.ts';
import type { IommufdDevice, IommufdGroup } from './device.ts';
import type { PagingHwpt } from './paging-hwpt.ts';

/** Doorbell pages one context can map, as many as the kernel's bitmap has bits. */
const MAX_DOORBELLS = 64;
const PAGE = 4096;

/**
 * Keeps the device's reserved regions out of the HWPT's IOAS, and maps its group's doorbells into the HWPT
 * (`iopt_table_enforce_dev_resv_regions`).
 * @param undo takes what was done back. @param owner whose reservations they are in the IOAS: the device, or one stream of it.
 * @returns 0; -EADDRINUSE an area or the allow-list is in the way; -EINVAL two kinds of interrupt window, or two software
 *   windows; -EOVERFLOW too many doorbells; else what the driver says.
 */
export function reserveRegions(
  context: IommufdContext,
  device: IommufdDevice,
  paging: PagingHwpt,
  undo: Undo,
  owner: object = device,
): number {
  const { group, dev } = device;
  const { ioas } = paging;
  let hardware = 0;
  let software = 0;
  undo.add(() => ioas.unreserve(owner));
  for (const region of dev.iommu.reservedRegions(dev)) {
    if (region.kind === 'direct-relaxable') continue;
    if (region.kind === 'msi') hardware++;
    if (region.kind === 'sw-msi') {
      software++;
      group.swMsi = region.start;
    }
    const r = ioas.reserve(region.start, region.last, owner);
    if (r !== 0) return r;
  }
  if ((hardware > 0 && software > 0) || software > 1) return -E.INVAL;
  return installDoorbells(context, group, paging, undo);
}

/** The last places of doorbells that no HWPT has any more are free again. */
export function freeDoorbells({ doorbells, objects }: IommufdContext): void {
  const used = (doorbell: number) => {
    for (const o of objects.objects()) if (o.kind === 'hwpt_paging' && o.doorbells.has(doorbell)) return true;
    return false;
  };
  while (doorbells.length > 0 && !used(doorbells.at(-1)!)) doorbells.pop();
}

/**
 * Maps the interrupt doorbells of the group's devices at their places in the software MSI window. A doorbell has the same
 * place in every window of the context.
 */
export function installDoorbells(context: IommufdContext, group: IommufdGroup, paging: PagingHwpt, undo: Undo): number {
  if (group.swMsi < 0n) return 0;
  const { doorbells } = context;
  for (const { msiDoorbell } of group.group.devices) {
    if (msiDoorbell < 0 || paging.doorbells.has(msiDoorbell)) continue;
    let n = doorbells.indexOf(msiDoorbell);
    if (n < 0) {
      if (doorbells.length === MAX_DOORBELLS) return -E.OVERFLOW;
      n = doorbells.push(msiDoorbell) - 1;
      undo.add(() => void doorbells.pop());
    }
    const at = group.swMsi + BigInt(n * PAGE);
    const r = paging.domain.map(at, msiDoorbell, PAGE, MAP_PROT.READ | MAP_PROT.WRITE | MAP_PROT.MMIO);
    if (r !== 0) return r;
    paging.doorbells.add(msiDoorbell);
    undo.add(() => {
      paging.domain.unmap(at, BigInt(PAGE));
      paging.doorbells.delete(msiDoorbell);
    });
  }
  return 0;
}
