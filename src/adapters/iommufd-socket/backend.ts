import { ViommuError } from '../../core/errors.ts';
import { MockDriver } from '../../host/drivers/mock/driver.ts';
import { MockTestIoctl } from '../../host/drivers/mock/test-ioctl.ts';
import { Smmuv3Driver } from '../../host/drivers/smmuv3/driver.ts';
import { VtdDriver } from '../../host/drivers/vtd/driver.ts';
import type { TestIoctl } from '../../host/ioctl/iommufd-ioctl.ts';
import { VfioFunction } from '../../host/ioctl/vfio-function.ts';
import type { GroupDevice } from '../../host/ioctl/vfio-group-node.ts';
import type { IommufdFile } from '../../host/iommufd/file.ts';
import type { DeviceDescription, KernelDevice } from '../../host/kernel/device.ts';
import { HostKernel } from '../../host/kernel/kernel.ts';
import { type HotResetMember, VfioHotReset } from '../../host/vfio/hot-reset.ts';
import { VfioPciDevice } from '../../host/vfio/pci-device.ts';
import { VirtualClock } from '../../lib/clock/virtual-clock.ts';
import { HostMemory } from '../../lib/memory/host-memory.ts';
import { extendedCapability } from '../../lib/pci/capability-list.ts';
import type { PciIdentity } from '../../lib/pci/header.ts';
import { EndpointRelay, HwRelay } from '../../machine/hw-relay.ts';
import { PhysicalSmmuv3 } from '../../piommu/smmuv3/device.ts';
import { PhysicalVtd } from '../../piommu/vtd/device.ts';
import type { AtsPort, EndpointPort } from '../../ports/dma.ts';
import type { PciFunction } from '../../ports/pci.ts';
import { MOCK, MOCK_DEVICE_FLAG } from '../../spec/iommufd/selftest.ts';
import { EXT, PASID_CAP } from '../../spec/pcie/capabilities.ts';
import { bdf } from '../../spec/pcie/header.ts';
import { Afterwards } from './afterwards.ts';
import { MOST_FUNCTIONS } from './endpoints.ts';
import { HostBus, ITS_DOORBELL, X86_DOORBELL } from './host-bus.ts';
import { ReachableMemory } from './reachable-memory.ts';

/** The kernel a server runs, and the devices that have a VFIO driver in it. */
export interface ServedKernel {
  readonly kernel: HostKernel;
  readonly vfio: readonly KernelDevice[];
  /** The same with their places and drivers. */
  readonly devices: readonly GroupDevice[];
  /** The memory that its functions reach; null: they do nothing, and reach none. */
  readonly reach: ReachableMemory | null;
  /** IOMMU_TEST_CMD of an iommufd; null: this kernel has no test driver. */
  test(file: IommufdFile): TestIoctl | null;
}

/** What kernels a server can run: Linux's mock driver, an SMMUv3 or a VT-d host. */
export const BACKENDS = ['mock', 'smmuv3', 'vtd'] as const;

const VFIO_DEVICES = 4;
const PASID_BITS = 16;
/** Requester id of the first device: 01:00.0. */
const FIRST_RID = 0x100;

/** S1P, S2P, ATS, two-level tables, 16-bit VMIDs, ASIDs and SubstreamIDs, range invalidation, S2FWB, 48-bit output. */
const SMMU = { idr0: 0x0d44_141b, idr1: 0x0273_0410, idr3: 0x1514, idr5: 0x75, iidr: 0x43b, aidr: 1 } as const;

/** 39, 48 and 57 bits, all page sizes, scalable mode, both stages, nesting, A/D bits, ATS, PRI, PASIDs of 20 bits. */
const VTD_CAP = 0x9180_0000_0000_0000n | (18n << 48n) | (1n << 39n) | (3n << 34n) | (47n << 16n) | (0xen << 8n) | 6n;
const VTD_ECAP = [1, 2, 6, 7, 26, 29, 31, 33, 34, 40, 42, 43, 45, 46, 47, 48].reduce(
  (e, bit) => e | (1n << BigInt(bit)),
  19n << 35n,
);

/** What programs see of the functions: QEMU's PCI test device, which does nothing. */
const IDENTITY: PciIdentity = { vendor: 0x1b36, device: 0x0005, classCode: 0x00ff00 };

/** The address of a function in Linux's notation. */
function addressOf(rid: number): string {
  return `0000:${bdf(rid)}`;
}

/** Functions that do nothing: `vfio0` at 0000:01:00.0 and so on. */
function stillDevices(vfio: readonly KernelDevice[]): readonly GroupDevice[] {
  return vfio.map((dev, i) => ({
    name: dev.name,
    address: addressOf(FIRST_RID + 8 * i),
    dev,
    function: new VfioFunction(IDENTITY),
  }));
}

/** Functions without a bus: their translation caches are empty, so every invalidation completes at once. */
function emptyCaches(ats: () => AtsPort): EndpointPort {
  return {
    invalidate(rid, _pasid, itag) {
      ats().invalidateCompletion(rid, 1 << itag, 1);
      return true;
    },
    pageResponse() {},
    resumed() {},
  };
}

function functions(kernel: HostKernel, iommu: DeviceDescription['iommu']): readonly GroupDevice[] {
  const made = Array.from({ length: VFIO_DEVICES }, (_, i) =>
    kernel.addDevice({
      name: `vfio${i}`,
      streams: [FIRST_RID + 8 * i],
      iommu,
      pasidBits: PASID_BITS,
      ats: true,
      pri: true,
    }),
  );
  return stillDevices(made);
}

/** Functions with a life of their own, on a bus behind the IOMMU, under the kernel's vfio-pci. */
function busFunctions(
  kernel: HostKernel,
  iommu: DeviceDescription['iommu'],
  bus: HostBus,
  fns: readonly PciFunction[],
  msiDoorbell: number,
): readonly GroupDevice[] {
  const together = new VfioHotReset();
  return fns.map((fn, i) => {
    const hardware = bus.plug(fn, 8 * i);
    const pasid = extendedCapability(fn, EXT.PASID);
    const capability = pasid === 0 ? 0 : fn.configRead(pasid + PASID_CAP.CAP, 2);
    const dev = kernel.addDevice({
      name: `vfio${i}`,
      streams: [hardware.stream],
      iommu,
      pasidBits: Math.min(PASID_BITS, (capability >>> 8) & 0x1f),
      pasidExec: (capability & PASID_CAP.EXEC) !== 0,
      pasidPriv: (capability & PASID_CAP.PRIV) !== 0,
      ats: hardware.ats,
      pri: hardware.pri,
      control: hardware.control,
      ...(msiDoorbell < 0 ? {} : { msiDoorbell }),
    });
    const driver: VfioPciDevice = new VfioPciDevice(hardware, (request, arg, caller) =>
      together.ioctl(member, request, arg, caller),
    );
    const member: HotResetMember = {
      busDevfn: FIRST_RID + 8 * i,
      group: i,
      get open() {
        return driver.open;
      },
      get owner() {
        return dev.group.owner;
      },
      get devId() {
        return dev.devId;
      },
      reset: () => driver.reset(),
    };
    together.members.push(member);
    return { name: dev.name, address: addressOf(FIRST_RID + 8 * i), dev, function: driver };
  });
}

function served(
  kernel: HostKernel,
  devices: readonly GroupDevice[],
  reach: ReachableMemory | null = null,
  test: ServedKernel['test'] = () => null,
): ServedKernel {
  return { kernel, vfio: devices.map((d) => d.dev), devices, reach, test };
}

function mock(kernel: HostKernel, release: Release): ServedKernel {
  const driver = new MockDriver(kernel.memory, release === '7.2' ? MOCK.PAGE : 4096);
  kernel.addIommu(driver);
  const vfio = Array.from({ length: VFIO_DEVICES }, (_, i) => {
    const d = driver.describe(MOCK_DEVICE_FLAG.PASID);
    if (typeof d === 'number') throw new ViommuError('EINVAL', 'caller', 'mock device flags');
    return kernel.addDevice({ ...d, name: `vfio${i}` });
  });
  return served(kernel, stillDevices(vfio), null, (file) => new MockTestIoctl(file, driver));
}

/** What a host with hardware is made with. */
interface HardwareParts {
  readonly fns: readonly PciFunction[];
  readonly ignoreInvalidations: boolean;
  readonly afterwards: Afterwards;
}

function smmuv3(kernel: HostKernel, { fns, ignoreInvalidations, afterwards }: HardwareParts): ServedKernel {
  const { memory, clock } = kernel;
  const events = new HwRelay();
  const endpoints = new EndpointRelay();
  const reach = fns.length === 0 ? null : new ReachableMemory(memory.space);
  const hw = new PhysicalSmmuv3({
    name: 'smmuv3.0',
    memory: reach ?? memory.space,
    ...SMMU,
    events,
    clock,
    endpoints,
    ignoreInvalidations,
  });
  endpoints.to = emptyCaches(() => hw);
  const driver = new Smmuv3Driver({ name: 'smmuv3.0', hw, memory, partialCount: 'linux-as-is' });
  kernel.addIommu(driver);
  events.to = driver.events;
  if (reach === null) return served(kernel, functions(kernel, driver));
  const bus = new HostBus(reach, { translate: hw, ats: hw }, ITS_DOORBELL, afterwards);
  endpoints.to = bus.endpoints;
  memory.space.addWindow(ITS_DOORBELL.page, 4096, bus.doorbell);
  return served(kernel, busFunctions(kernel, driver, bus, fns, ITS_DOORBELL.page), reach);
}

function vtd(kernel: HostKernel, { fns, ignoreInvalidations, afterwards }: HardwareParts): ServedKernel {
  const { memory, clock } = kernel;
  const events = new HwRelay();
  const endpoints = new EndpointRelay();
  const reach = fns.length === 0 ? null : new ReachableMemory(memory.space);
  const hw = new PhysicalVtd({
    memory: reach ?? memory.space,
    cap: VTD_CAP,
    ecap: VTD_ECAP,
    clock,
    events,
    endpoints,
    ignoreInvalidations,
  });
  endpoints.to = emptyCaches(() => hw);
  const driver = new VtdDriver({ name: 'vtd.0', hw, memory });
  kernel.addIommu(driver);
  events.to = driver.events;
  if (reach === null) return served(kernel, functions(kernel, driver));
  const bus = new HostBus(reach, { translate: hw, ats: hw }, X86_DOORBELL, afterwards);
  endpoints.to = bus.endpoints;
  return served(kernel, busFunctions(kernel, driver, bus, fns, X86_DOORBELL.page), reach);
}

/** Releases of Linux whose test driver the mock can be: 7.3 keeps dirty bits by host page, not by entry. */
export const RELEASES = ['7.2', '7.3'] as const;
/** A Linux release whose answers a mock kernel gives. */
export type Release = (typeof RELEASES)[number];

/**
 * @param fns functions of a life of their own (default: four that do nothing).
 * @param deaf the hardware loses invalidations.
 * @param afterwards runs what functions put off (default: what they throw is not caught).
 * @throws ViommuError `E_USAGE` unknown name, functions that the mock cannot have, or too many of them.
 */
export function makeBackend(
  name: string,
  release: Release = '7.2',
  fns: readonly PciFunction[] = [],
  deaf = false,
  afterwards = new Afterwards((error) => {
    throw error;
  }),
): ServedKernel {
  if (fns.length > MOST_FUNCTIONS) {
    throw new ViommuError('E_USAGE', 'caller', `--device: at most ${MOST_FUNCTIONS} of them`, { devices: fns.length });
  }
  const kernel = new HostKernel({ memory: new HostMemory(), clock: new VirtualClock() });
  const parts = { fns, ignoreInvalidations: deaf, afterwards };
  switch (name) {
    case 'mock':
      if (fns.length > 0) {
        throw new ViommuError('E_USAGE', 'caller', '--device: the mock has no hardware; use --backend smmuv3 or vtd');
      }
      return mock(kernel, release);
    case 'smmuv3':
      return smmuv3(kernel, parts);
    case 'vtd':
      return vtd(kernel, parts);
    default:
      throw new ViommuError('E_USAGE', 'caller', `--backend: expected ${BACKENDS.join(', ')}, found "${name}"`);
  }
}
