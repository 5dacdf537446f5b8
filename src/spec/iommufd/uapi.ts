/** Linux 7.2, include/uapi/linux/iommufd.h: constants. */

/** IOMMU_IOAS_MAP and IOMMU_IOAS_COPY, flags. */
export const IOAS_MAP_FLAG = { FIXED_IOVA: 1, WRITEABLE: 2, READABLE: 4 } as const;

/** IOMMU_HWPT_ALLOC, flags. */
export const HWPT_FLAG = { NEST_PARENT: 1, DIRTY_TRACKING: 2, FAULT_ID_VALID: 4, PASID: 8 } as const;

/** IOMMU_HWPT_ALLOC, data_type: what the user data describes. */
export const HWPT_DATA = { NONE: 0, VTD_S1: 1, ARM_SMMUV3: 2, AMD_GUEST: 3 } as const;

/** iommu_hwpt_vtd_s1.flags */
export const VTD_S1_FLAG = { SRE: 1, EAFE: 2, WPE: 4 } as const;

/** IOMMU_HWPT_INVALIDATE, data_type. */
export const INVALIDATE_DATA = { VTD_S1: 0, VIOMMU_ARM_SMMUV3: 1 } as const;

/** iommu_hwpt_vtd_s1_invalidate.flags */
export const VTD_INV_FLAG = { LEAF: 1 } as const;

/** IOMMU_GET_HW_INFO, data_type. */
export const HW_INFO = { NONE: 0, INTEL_VTD: 1, ARM_SMMUV3: 2, TEGRA241_CMDQV: 3, AMD: 4 } as const;

/** IOMMU_GET_HW_INFO, flags: the caller names the type it wants. */
export const HW_INFO_FLAG = { INPUT_TYPE: 1 } as const;

/** GET_HW_INFO out_capabilities. */
export const HW_CAP = {
  DIRTY_TRACKING: 1n,
  PCI_PASID_EXEC: 2n,
  PCI_PASID_PRIV: 4n,
  PCI_ATS_NOT_SUPPORTED: 8n,
} as const;

/** IOMMU_VIOMMU_ALLOC, type. */
export const VIOMMU_TYPE = { DEFAULT: 0, ARM_SMMUV3: 1, TEGRA241_CMDQV: 2 } as const;

/** IOMMU_VEVENTQ_ALLOC, type. */
export const VEVENTQ_TYPE = { DEFAULT: 0, ARM_SMMUV3: 1, TEGRA241_CMDQV: 2 } as const;

/** iommufd_vevent_header, flags: events were lost before this one. */
export const VEVENTQ_FLAG = { LOST_EVENTS: 1 } as const;

/** IOMMU_HW_QUEUE_ALLOC, type. */
export const HW_QUEUE_TYPE = { DEFAULT: 0, TEGRA241_CMDQV: 1 } as const;

/** IOMMU_OPTION, option_id. */
export const OPTION = { RLIMIT_MODE: 0, HUGE_PAGES: 1 } as const;
/** IOMMU_OPTION, op. */
export const OPTION_OP = { SET: 0, GET: 1 } as const;

/** IOMMU_VFIO_IOAS, op. */
export const VFIO_IOAS_OP = { GET: 0, SET: 1, CLEAR: 2 } as const;

/** IOMMU_HWPT_SET_DIRTY_TRACKING, flags. */
export const DIRTY_FLAG = { ENABLE: 1 } as const;
/** IOMMU_HWPT_GET_DIRTY_BITMAP, flags: read without clearing. */
export const DIRTY_BITMAP_FLAG = { NO_CLEAR: 1 } as const;

/** iommu_hwpt_pgfault: flags, permissions, and the answer's code. */
export const PGFAULT_FLAG = { PASID_VALID: 1, LAST_PAGE: 2 } as const;
/** iommu_hwpt_pgfault, perm: what the device asked for. */
export const PGFAULT_PERM = { READ: 1, WRITE: 2, EXEC: 4, PRIV: 8 } as const;
/** iommu_hwpt_page_response, code. */
export const PGFAULT_CODE = { SUCCESS: 0, INVALID: 1 } as const;
