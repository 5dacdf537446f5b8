import { ConfigSpace } from '../../lib/pci/config-space.ts';
import { endpointHeader, type PciIdentity } from '../../lib/pci/header.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { VFIO, VFIO_PCI_IRQ, VFIO_PCI_OFFSET_SHIFT, VFIO_PCI_REGION } from '../../spec/iommufd/vfio.ts';
import type { VfioDriver } from '../vfio/driver.ts';
import { deviceInfo, irqInfo, regionInfo } from '../vfio/info.ts';
import type { Caller } from './caller.ts';

const CONFIG_BYTES = 256;

/** What VFIO shows of a PCI function that does nothing: a configuration space, no BARs, no interrupts. */
export class VfioFunction implements VfioDriver {
  readonly #config: ConfigSpace;

  constructor(identity: PciIdentity) {
    this.#config = new ConfigSpace(CONFIG_BYTES);
    endpointHeader(this.#config, identity);
  }

  /** The commands of a bound device that its driver answers. @returns ≥ 0 or -errno. */
  ioctl(request: number, arg: bigint, caller: Caller): number {
    switch (request) {
      case VFIO.DEVICE_GET_INFO:
        return deviceInfo(arg, caller);
      case VFIO.DEVICE_GET_REGION_INFO:
        return regionInfo(arg, caller, (index) => (index === VFIO_PCI_REGION.CONFIG ? CONFIG_BYTES : 0));
      case VFIO.DEVICE_GET_IRQ_INFO:
        return irqInfo(arg, caller, (index) => (index === VFIO_PCI_IRQ.REQ ? 1 : 0), false);
      case VFIO.DEVICE_RESET:
        this.#config.reset();
        return 0;
      default:
        return -E.NOTTY;
    }
  }

  /** Reads a region of the device's file. @returns bytes, or -EINVAL behind the end of the region. */
  pread(offset: bigint, into: Uint8Array): number {
    const at = configOffset(offset);
    if (at < 0) return -E.INVAL;
    const n = Math.min(into.length, CONFIG_BYTES - at);
    for (let i = 0; i < n; i++) into[i] = this.#config.read(at + i, 1);
    return n;
  }
  pwrite(offset: bigint, from: Uint8Array): number {
    const at = configOffset(offset);
    if (at < 0) return -E.INVAL;
    const n = Math.min(from.length, CONFIG_BYTES - at);
    // Whole registers as far as alignment allows, as the kernel writes them.
    for (let i = 0; i < n; ) {
      const size = (at + i) % 4 === 0 && n - i >= 4 ? 4 : (at + i) % 2 === 0 && n - i >= 2 ? 2 : 1;
      const value = from.subarray(i, i + size).reduceRight((v, byte) => v * 256 + byte, 0);
      this.#config.write(at + i, size, value);
      i += size;
    }
    return n;
  }
}

/** Where in the configuration space an offset of the file lies; -1: in no region that has bytes. */
function configOffset(offset: bigint): number {
  const at = offset - (BigInt(VFIO_PCI_REGION.CONFIG) << VFIO_PCI_OFFSET_SHIFT);
  return at >= 0n && at < BigInt(CONFIG_BYTES) ? Number(at) : -1;
}
