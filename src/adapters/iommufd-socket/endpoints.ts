import { Accelerator } from '../../../devices/endpoints/accelerator.ts';
import { DmaEngine } from '../../../devices/endpoints/dma-engine.ts';
import { RamDisk } from '../../../devices/endpoints/nvme/disk.ts';
import { NvmeFunction } from '../../../devices/endpoints/nvme/function.ts';
import { ViommuError } from '../../core/errors.ts';
import type { PciFunction } from '../../ports/pci.ts';

/** What functions of this package a server can have, by the name that `--device` takes. */
export const SERVED_FUNCTIONS = ['nvme', 'dma-engine', 'accelerator'] as const;

/** Most functions of one server: each has a device number of its own. */
export const MOST_FUNCTIONS = 16;

/** Bytes of a disk: by default, and at most. */
const DISK = { BYTES: 64 << 20, MOST: 2 ** 30 } as const;

/**
 * Makes a function by its name, one NAME or `nvme:MEGABYTES`.
 * @param n its number among those of the server: disks with one serial number would be one for a guest. @throws ViommuError `E_USAGE` there is no such function.
 */
export function makeServedFunction(text: string, n = 0): PciFunction {
  const [, name, , size] = /^([a-z-]+)(:(\d{1,4}))?$/.exec(text) ?? [];
  const bytes = size === undefined ? DISK.BYTES : Number(size) * 2 ** 20;
  if (name === 'nvme' && bytes > 0 && bytes <= DISK.MOST) {
    const identity = { serial: `VIOMMU${String(n + 1).padStart(4, '0')}` };
    return new NvmeFunction({ disk: new RamDisk(bytes), identity }).fn;
  }
  if (name === 'dma-engine' && size === undefined) return new DmaEngine().fn;
  if (name === 'accelerator' && size === undefined) return new Accelerator().fn;
  const known = `${SERVED_FUNCTIONS.join(', ')}, or nvme:MEGABYTES (up to ${DISK.MOST >> 20})`;
  throw new ViommuError('E_USAGE', 'caller', `--device: expected ${known}, found "${text}"`);
}
