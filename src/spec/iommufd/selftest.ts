/** Linux 7.2, drivers/iommu/iommufd/iommufd_test.h: the kernel's test interface, numbers only. */

export const MOCK = {
  PAGE: 2048,
  HUGE_PAGE: 512 * 2048,
  APERTURE_START: 1n << 24n,
  APERTURE_LAST: (1n << 31n) - 1n,
  PASID_WIDTH: 20,
  /** The second attach operation on this PASID fails. */
  PASID_FAILS: 1024,
  HWPT_DATA: 0xdead,
  HW_INFO: 0xfeed_beef,
  HW_INFO_REG: 0xdead_beef,
  INVALIDATE: 0xdead_beef,
  VIOMMU: 0xdead_beef,
  VEVENTQ: 0xbeef_beef,
  HW_QUEUE: 0xdead_beef,
  HW_QUEUES: 2,
  /** Fake IOTLB words of a nested HWPT, fake cache words of a device. */
  WORDS: 4,
  DEVICE_CACHE: 0xbad_dad,
} as const;

/** Flags of a mock device (TEST_OP.MOCK_DOMAIN_FLAGS). */
export const MOCK_DEVICE_FLAG = { NO_DIRTY: 1, PASID: 4 } as const;
/** Formats of the mock driver's page table. */
export const MOCK_PAGETABLE = { DEFAULT: 0, HUGE: 1 } as const;
/** Flag of the mock driver's invalidation: every entry. */
export const MOCK_INVALIDATE_ALL = 1;
/** Flags of TEST_OP.CREATE_ACCESS, ACCESS_PAGES and ACCESS_RW. */
export const MOCK_ACCESS_FLAG = { WRITE: 1, SLOW_PATH: 4, SYZ: 1 << 16 } as const;

/** Operations of IOMMU_TEST_CMD. */
export const TEST_OP = {
  ADD_RESERVED: 1,
  MOCK_DOMAIN: 2,
  MD_CHECK_MAP: 3,
  MD_CHECK_REFS: 4,
  CREATE_ACCESS: 5,
  DESTROY_ACCESS_PAGES: 6,
  ACCESS_PAGES: 7,
  ACCESS_RW: 8,
  SET_TEMP_MEMORY_LIMIT: 9,
  MOCK_DOMAIN_REPLACE: 10,
  ACCESS_REPLACE_IOAS: 11,
  MOCK_DOMAIN_FLAGS: 12,
  DIRTY: 13,
  MD_CHECK_IOTLB: 14,
  TRIGGER_IOPF: 15,
  DEV_CHECK_CACHE: 16,
  TRIGGER_VEVENT: 17,
  PASID_ATTACH: 18,
  PASID_REPLACE: 19,
  PASID_DETACH: 20,
  PASID_CHECK_HWPT: 21,
  DMABUF_GET: 22,
  DMABUF_REVOKE: 23,
} as const;
