import type { PasidManagement } from '../../lib/pasid/pasid-management.ts';
import type { GetHwInfo, Iommufd, VfioDevice } from '../../ports/iommufd.ts';
import { HW_INFO } from '../../spec/iommufd/uapi.ts';

/** What a device can do with PASIDs, and who chooses them. */
export interface PasidInfo {
  /** The device can have several address spaces at once. */
  readonly several: boolean;
  /** PASID width in bits as the device has it; 0: none. */
  readonly bits: number;
  /** How its PASIDs are managed. */
  readonly management: PasidManagement;
  /** The user chooses PASIDs in [first, end). Empty: the space is not delegated. */
  readonly first: number;
  /** One more than the last PASID the user may choose. */
  readonly end: number;
}

/**
 * @param global the device's PASIDs have twins in the host's pool, which begins at `min`. @param most bits that the vIOMMU in front
 *   of it lets the guest have.
 */
export function pasidInfo(iommufd: Iommufd, vfio: VfioDevice, global: boolean, min: number, most = 20): PasidInfo {
  const c: GetHwInfo = {
    flags: 0,
    devId: vfio.devId,
    dataLen: 0,
    data: null,
    dataType: 0,
    outMaxPasidLog2: 0,
    outCapabilities: 0n,
  };
  const bits = iommufd.getHwInfo(c) === 0 ? Math.min(c.outMaxPasidLog2, most) : 0;
  const guestTable = c.dataType === HW_INFO.ARM_SMMUV3 || c.dataType === HW_INFO.AMD;
  const management = guestTable ? 'guest-table' : global ? 'global' : 'host-table';
  const all = bits === 0 ? 0 : 2 ** bits;
  const end = management === 'global' ? Math.min(all, min) : all;
  return { several: bits > 0, bits, management, first: bits === 0 ? 0 : 1, end };
}
