import { ConfigSpace } from '../../lib/pci/config-space.ts';
import { endpointHeader, type PciIdentity } from '../../lib/pci/header.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { VFIO, VFIO_PCI_IRQ, VFIO_PCI_REGION } from '../../spec/iommufd/vfio.ts';
import type { VfioDriver } from '../vfio/driver.ts';
import { deviceInfo, inRegion, irqInfo, regionInfo, regionOf } from '../vfio/info.ts';
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

  /** Reads a region of the device's file. @returns bytes; -EFAULT beyond the configuration space; -EINVAL no region has it. */
  pread(offset: bigint, into: Uint8Array): number {
    const n = into.length;
    const at = configOffset(offset, n);
    if (n === 0 || at < 0) return n === 0 ? 0 : at;
    for (let i = 0; i < n; i++) into[i] = this.#config.read(at + i, 1);
    return n;
  }
  pwrite(offset: bigint, from: Uint8Array): number {
    const n = from.length;
    const at = configOffset(offset, n);
    if (n === 0 || at < 0) return n === 0 ? 0 : at;
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

/** Where in the configuration space `count` bytes of the file lie; -EFAULT not all of them; -EINVAL another region has no bytes. */
function configOffset(offset: bigint, count: number): number {
  if (regionOf(offset) !== VFIO_PCI_REGION.CONFIG) return -E.INVAL;
  const at = inRegion(offset);
  return at + count > CONFIG_BYTES ? -E.FAULT : at;
}
