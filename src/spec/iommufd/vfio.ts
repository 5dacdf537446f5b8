/** Linux 7.2, include/uapi/linux/vfio.h: numbers and structures. */

import { struct } from './structs.ts';

/** VFIO's commands are `_IO(';', 100 + n)` (include/uapi/linux/vfio.h). */
const vfio = (n: number) => 0x3b00 + 100 + n;

/** Numbers of VFIO's commands. */
export const VFIO = {
  GET_API_VERSION: vfio(0),
  CHECK_EXTENSION: vfio(1),
  SET_IOMMU: vfio(2),
  GROUP_GET_STATUS: vfio(3),
  GROUP_SET_CONTAINER: vfio(4),
  GROUP_UNSET_CONTAINER: vfio(5),
  GROUP_GET_DEVICE_FD: vfio(6),
  DEVICE_GET_INFO: vfio(7),
  DEVICE_GET_REGION_INFO: vfio(8),
  DEVICE_GET_IRQ_INFO: vfio(9),
  DEVICE_SET_IRQS: vfio(10),
  DEVICE_RESET: vfio(11),
  DEVICE_GET_PCI_HOT_RESET_INFO: vfio(12),
  DEVICE_PCI_HOT_RESET: vfio(13),
  DEVICE_FEATURE: vfio(17),
  IOMMU_GET_INFO: vfio(12),
  IOMMU_MAP_DMA: vfio(13),
  IOMMU_UNMAP_DMA: vfio(14),
  DEVICE_BIND_IOMMUFD: vfio(18),
  DEVICE_ATTACH_IOMMUFD_PT: vfio(19),
  DEVICE_DETACH_IOMMUFD_PT: vfio(20),
} as const;

/** What VFIO_GET_API_VERSION answers. */
export const VFIO_API_VERSION = 0;

/** Extensions and IOMMU types. */
export const VFIO_EXTENSION = { TYPE1: 1, TYPE1V2: 3, DMA_CC: 4, NOIOMMU: 8, UNMAP_ALL: 9 } as const;

/** Flags of VFIO_IOMMU_MAP_DMA (READ, WRITE) and VFIO_IOMMU_UNMAP_DMA (UNMAP_ALL). */
export const VFIO_DMA_FLAG = { READ: 1, WRITE: 2, UNMAP_ALL: 2 } as const;
/** Flags of VFIO_IOMMU_GET_INFO: which members are filled in. */
export const VFIO_IOMMU_INFO = { PGSIZES: 1, CAPS: 2 } as const;
/** Ids of the capabilities behind VFIO_IOMMU_GET_INFO. */
export const VFIO_INFO_CAP = { IOVA_RANGE: 1, DMA_AVAIL: 3 } as const;
/** Flag of attach and detach: the PASID counts. */
export const VFIO_PASID_FLAG = 1;
/** Flag of VFIO_DEVICE_BIND_IOMMUFD: the token counts. */
export const VFIO_BIND_TOKEN = 1;
/** Flags of VFIO_GROUP_GET_STATUS. */
export const VFIO_GROUP_FLAG = { VIABLE: 1, CONTAINER_SET: 2 } as const;
/** Flags of VFIO_DEVICE_GET_REGION_INFO. */
export const VFIO_REGION_FLAG = { READ: 1, WRITE: 2 } as const;
/** Flags of VFIO_DEVICE_GET_IRQ_INFO. */
export const VFIO_IRQ_FLAG = { EVENTFD: 1, MASKABLE: 2, AUTOMASKED: 4, NORESIZE: 8 } as const;
/** Flags of VFIO_DEVICE_SET_IRQS: what the data is, and what happens to the interrupts. */
export const VFIO_IRQ_SET = { NONE: 1, BOOL: 2, EVENTFD: 4, MASK: 8, UNMASK: 16, TRIGGER: 32 } as const;
/** Flags of VFIO_DEVICE_GET_PCI_HOT_RESET_INFO. */
export const VFIO_HOT_RESET_FLAG = { DEV_ID: 1, DEV_ID_OWNED: 2 } as const;
/** What VFIO_DEVICE_GET_PCI_HOT_RESET_INFO says of a device that is not bound to the caller's iommufd. */
export const VFIO_HOT_RESET_DEVID = { OWNED: 0, NOT_OWNED: 0xffff_ffff } as const;
/** Flags of VFIO_DEVICE_FEATURE beside the number of the feature (its low 16 bits). */
export const VFIO_FEATURE = { GET: 0x1_0000, SET: 0x2_0000, PROBE: 0x4_0000, NUMBER: 0xffff } as const;
/** Regions of a PCI function, by index. */
export const VFIO_PCI_REGION = { ROM: 6, CONFIG: 7, VGA: 8, COUNT: 9 } as const;
/** Interrupts of a PCI function, by index. */
export const VFIO_PCI_IRQ = { INTX: 0, MSI: 1, MSIX: 2, ERR: 3, REQ: 4, COUNT: 5 } as const;
/** A region's index stands above this bit of its offset in the device's file. */
export const VFIO_PCI_OFFSET_SHIFT = 40n;
/** Flags of VFIO_DEVICE_GET_INFO. */
export const VFIO_DEVICE_FLAG = { RESET: 1, PCI: 2 } as const;

/** struct vfio_group_status. */
export const VFIO_GROUP_STATUS = struct({ argsz: 'u32', flags: 'u32' });
/** struct vfio_region_info. */
export const VFIO_REGION_INFO = struct({
  argsz: 'u32',
  flags: 'u32',
  index: 'u32',
  capOffset: 'u32',
  size: 'u64',
  offset: 'u64',
});
/** struct vfio_irq_info. */
export const VFIO_IRQ_INFO = struct({ argsz: 'u32', flags: 'u32', index: 'u32', count: 'u32' });
/** struct vfio_irq_set; the data follows. */
export const VFIO_IRQ_SET_HEAD = struct({ argsz: 'u32', flags: 'u32', index: 'u32', start: 'u32', count: 'u32' });
/** struct vfio_pci_hot_reset_info; the devices follow. */
export const VFIO_HOT_RESET_INFO = struct({ argsz: 'u32', flags: 'u32', count: 'u32' });
/** struct vfio_pci_dependent_device. */
export const VFIO_DEPENDENT_DEVICE = struct({ id: 'u32', segment: 'u16', busDevfn: 'u16' });
/** struct vfio_pci_hot_reset; descriptors of groups follow. */
export const VFIO_HOT_RESET = struct({ argsz: 'u32', flags: 'u32', count: 'u32' });
/** struct vfio_device_feature; the data follows. */
export const VFIO_FEATURE_HEAD = struct({ argsz: 'u32', flags: 'u32' });
/** struct vfio_iommu_type1_dma_map. */
export const VFIO_DMA_MAP = struct({ argsz: 'u32', flags: 'u32', vaddr: 'u64', iova: 'u64', size: 'u64' });
/** struct vfio_iommu_type1_dma_unmap. */
export const VFIO_DMA_UNMAP = struct({ argsz: 'u32', flags: 'u32', iova: 'u64', size: 'u64' });
/** struct vfio_iommu_type1_info. */
export const VFIO_TYPE1_INFO = struct({
  argsz: 'u32',
  flags: 'u32',
  iovaPgsizes: 'u64',
  capOffset: 'u32',
  pad: 'u32',
});
/** struct vfio_info_cap_header. */
export const VFIO_CAP_HEADER = struct({ id: 'u16', version: 'u16', next: 'u32' });
/** struct vfio_device_info. */
export const VFIO_DEVICE_INFO = struct({
  argsz: 'u32',
  flags: 'u32',
  numRegions: 'u32',
  numIrqs: 'u32',
  capOffset: 'u32',
  pad: 'u32',
});
/** struct vfio_device_bind_iommufd. */
export const VFIO_BIND = struct({ argsz: 'u32', flags: 'u32', iommufd: 's32', outDevid: 'u32', token: 'u64' });
/** struct vfio_device_attach_iommufd_pt. */
export const VFIO_ATTACH = struct({ argsz: 'u32', flags: 'u32', ptId: 'u32', pasid: 'u32' });
/** struct vfio_device_detach_iommufd_pt. */
export const VFIO_DETACH = struct({ argsz: 'u32', flags: 'u32', pasid: 'u32' });
