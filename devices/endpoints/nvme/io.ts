import { IO, LBA_SHIFT, NVME_STATUS } from '../../../src/spec/nvme/registers.ts';
import type { Disk } from './disk.ts';
import { MAX_TRANSFER, type Transfer } from './transfer.ts';

/** Bytes of a disk that cost a unit of work. */
const UNIT_BYTES = 65_536;

/** The NVM command set (NVM Express 1.4 §6) on one namespace. */
export class IoCommands {
  readonly #disk: Disk;
  readonly #transfer: Transfer;
  /** Units of work of what the last command did on the disk. */
  work = 1;

  constructor(disk: Disk, transfer: Transfer) {
    this.#disk = disk;
    this.#transfer = transfer;
  }

  /** @returns a NVME_STATUS value. */
  run(sqe: Int32Array): number {
    this.work = 1;
    const opcode = sqe[0]! & 0xff;
    const nsid = sqe[1]! >>> 0;
    if (opcode === IO.FLUSH)
      return nsid === 1 || nsid === 0xffff_ffff ? NVME_STATUS.SUCCESS : NVME_STATUS.INVALID_NAMESPACE;
    if (opcode !== IO.READ && opcode !== IO.WRITE && opcode !== IO.WRITE_ZEROES) return NVME_STATUS.INVALID_OPCODE;
    if (nsid !== 1) return NVME_STATUS.INVALID_NAMESPACE;
    const blocks = (sqe[12]! & 0xffff) + 1;
    const lba = (sqe[10]! >>> 0) + (sqe[11]! >>> 0) * 0x1_0000_0000;
    // Above 2^53 the sum is inexact, and far beyond any disk.
    if (lba + blocks > this.#disk.blocks) return NVME_STATUS.LBA_RANGE;
    const bytes = blocks << LBA_SHIFT;
    const at = lba * (1 << LBA_SHIFT);
    if (opcode === IO.WRITE_ZEROES) {
      this.work += bytes / UNIT_BYTES;
      this.#disk.zero(at, bytes);
      return NVME_STATUS.SUCCESS;
    }
    if (bytes > MAX_TRANSFER) return NVME_STATUS.INVALID_FIELD;
    const t = this.#transfer;
    if (opcode === IO.READ) {
      this.#disk.read(at, t.buffer, 0, bytes);
      return t.run(sqe, bytes, true);
    }
    const status = t.run(sqe, bytes, false);
    if (status === NVME_STATUS.SUCCESS) this.#disk.write(at, t.buffer, 0, bytes);
    return status;
  }
}
