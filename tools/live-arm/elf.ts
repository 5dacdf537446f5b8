import { ViommuError } from '../../src/core/errors.ts';

const PT_LOAD = 1;

/**
 * Copies the loadable segments of a 64-bit little-endian ELF file to where `store` puts them.
 * @returns the entry point. @throws ViommuError `EINVAL` when it is not such a file.
 */
export function loadElf(file: Uint8Array, store: (address: number, bytes: Uint8Array) => boolean): number {
  const v = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < 64 || v.getUint32(0) !== 0x7f45_4c46 || file[4] !== 2 || file[5] !== 1) {
    throw new ViommuError('EINVAL', 'caller', 'not a 64-bit little-endian ELF file');
  }
  const long = (at: number) => Number(v.getBigUint64(at, true));
  const headers = long(0x20);
  const count = v.getUint16(0x38, true);
  for (let n = 0; n < count; n++) {
    const at = headers + n * v.getUint16(0x36, true);
    if (v.getUint32(at, true) !== PT_LOAD) continue;
    const from = long(at + 8);
    const address = long(at + 0x18);
    if (!store(address, file.subarray(from, from + long(at + 0x20)))) {
      throw new ViommuError('EINVAL', 'caller', 'the image does not fit into RAM', { address });
    }
  }
  return long(0x18);
}
