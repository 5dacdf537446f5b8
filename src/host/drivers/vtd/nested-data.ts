import type { VtdFeatures } from '../../../lib/check/vtd-features.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { HWPT_DATA, VTD_S1_FLAG } from '../../../spec/iommufd/uapi.ts';
import { FSPM_BITS } from '../../../spec/vtd/tables.ts';
import type { DriverData } from '../../kernel/driver.ts';
import { copyDriverData } from '../../kernel/driver-data.ts';

/** Bytes of `struct iommu_hwpt_vtd_s1`. */
const VTD_S1_BYTES = 24;
const TABLE = 0xf_ffff_ffff_f000n;

/** A guest's first stage as `struct iommu_hwpt_vtd_s1` describes it. */
export interface FirstStageData {
  /** VTD_S1_FLAG bits. */
  readonly flags: number;
  /** Guest-physical address of the top table, bytes. */
  readonly table: number;
  /** Address width in bits, as given. */
  readonly addrWidth: number;
}

/** Reads a first stage; its values are looked at by attach only. @returns what the copy says when it fails. */
export function readFirstStage(data: DriverData): FirstStageData | number {
  const bytes = new Uint8Array(VTD_S1_BYTES);
  const copied = copyDriverData(data, HWPT_DATA.VTD_S1, VTD_S1_BYTES, bytes);
  if (copied !== 0) return copied;
  const v = new DataView(bytes.buffer);
  return {
    flags: v.getUint32(0, true),
    table: Number(v.getBigUint64(8, true) & TABLE),
    addrWidth: v.getUint32(16, true),
  };
}

/** Whether the unit can do what a first stage asks for. @returns 0 or -EINVAL. */
export function supportsFirstStage({ flags, addrWidth }: FirstStageData, features: VtdFeatures): number {
  if (!features.walksFirst(FSPM_BITS.indexOf(addrWidth))) return -E.INVAL;
  if ((flags & VTD_S1_FLAG.SRE) !== 0 && !features.supervisor) return -E.INVAL;
  if ((flags & VTD_S1_FLAG.EAFE) !== 0 && !features.extendedAccessed) return -E.INVAL;
  return 0;
}
