import { ConfigSpace } from '../../lib/pci/config-space.ts';
import { endpointHeader, type PciIdentity } from '../../lib/pci/header.ts';
import { E } from '../../spec/iommufd/errno.ts';
import {
  VFIO,
  VFIO_DEVICE_FLAG,
  VFIO_DEVICE_INFO,
  VFIO_IRQ_FLAG,
  VFIO_IRQ_INFO,
  VFIO_PCI_IRQ,
  VFIO_PCI_OFFSET_SHIFT,
  VFIO_PCI_REGION,
  VFIO_REGION_FLAG,
  VFIO_REGION_INFO,
} from '../../spec/iommufd/vfio.ts';
import type { Caller } from './caller.ts';

const CONFIG_BYTES = 256;

/** What VFIO shows of a PCI function that does nothing: a configuration space, no BARs, no interrupts. */
export class VfioFunction {
  readonly #config: ConfigSpace;

  constructor(identity: PciIdentity) {
    this.#config = new ConfigSpace(CONFIG_BYTES);
    endpointHeader(this.#config, identity);
  }

  /** The commands of a bound device that its driver answers. @returns ≥ 0 or -errno. */
  ioctl(request: number, arg: bigint, caller: Caller): number {
    switch (request) {
      case VFIO.DEVICE_GET_INFO:
        return getInfo(arg, caller);
      case VFIO.DEVICE_GET_REGION_INFO:
        return regionInfo(arg, caller);
      case VFIO.DEVICE_GET_IRQ_INFO:
        return irqInfo(arg, caller);
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

function getInfo(arg: bigint, caller: Caller): number {
  const minimum = VFIO_DEVICE_INFO.at.capOffset;
  const bytes = new Uint8Array(VFIO_DEVICE_INFO.bytes);
  if (!caller.read(arg, bytes.subarray(0, minimum))) return -E.FAULT;
  const v = VFIO_DEVICE_INFO.decode(bytes);
  if (v.argsz < minimum) return -E.INVAL;
  const given = Math.min(v.argsz, bytes.length);
  v.flags = VFIO_DEVICE_FLAG.RESET | VFIO_DEVICE_FLAG.PCI;
  v.numRegions = VFIO_PCI_REGION.COUNT;
  v.numIrqs = VFIO_PCI_IRQ.COUNT;
  v.capOffset = 0;
  return caller.write(arg, VFIO_DEVICE_INFO.encode(v).subarray(0, given)) ? 0 : -E.FAULT;
}

function regionInfo(arg: bigint, caller: Caller): number {
  const bytes = new Uint8Array(VFIO_REGION_INFO.bytes);
  if (!caller.read(arg, bytes)) return -E.FAULT;
  const v = VFIO_REGION_INFO.decode(bytes);
  if (v.argsz < bytes.length || v.index >= VFIO_PCI_REGION.VGA) return -E.INVAL;
  const config = v.index === VFIO_PCI_REGION.CONFIG;
  v.flags = config ? VFIO_REGION_FLAG.READ | VFIO_REGION_FLAG.WRITE : 0;
  v.capOffset = 0;
  v.size = config ? BigInt(CONFIG_BYTES) : 0n;
  v.offset = BigInt(v.index) << VFIO_PCI_OFFSET_SHIFT;
  return caller.write(arg, VFIO_REGION_INFO.encode(v)) ? 0 : -E.FAULT;
}

function irqInfo(arg: bigint, caller: Caller): number {
  const bytes = new Uint8Array(VFIO_IRQ_INFO.bytes);
  if (!caller.read(arg, bytes)) return -E.FAULT;
  const v = VFIO_IRQ_INFO.decode(bytes);
  if (v.argsz < bytes.length || v.index >= VFIO_PCI_IRQ.COUNT) return -E.INVAL;
  const { INTX, REQ, ERR } = VFIO_PCI_IRQ;
  // A conventional function has no error interrupt; the request to give the device back is everybody's.
  if (v.index === ERR) return -E.INVAL;
  const { EVENTFD, MASKABLE, AUTOMASKED, NORESIZE } = VFIO_IRQ_FLAG;
  v.flags = EVENTFD | (v.index === INTX ? MASKABLE | AUTOMASKED : NORESIZE);
  v.count = v.index === REQ ? 1 : 0;
  return caller.write(arg, VFIO_IRQ_INFO.encode(v)) ? 0 : -E.FAULT;
}
