/** NVM Express Base Specification revision 1.4: controller registers and commands. */

import type { RegisterTable } from '../../core/registers.ts';

/** Controller registers (NVM Express Base 1.4 §3.1). */
// biome-ignore format: table
export const NVME = {
  CAP:   { at: 0x00, size: 8 },
  VS:    { at: 0x08, size: 4, reset: 0x0001_0400n },
  INTMS: { at: 0x0c, size: 4 },
  INTMC: { at: 0x10, size: 4 },
  CC:    { at: 0x14, size: 4, rw: 0x00ff_fff1n, fields: { EN: [0, 1], CSS: [4, 3], MPS: [7, 4], AMS: [11, 3], SHN: [14, 2], IOSQES: [16, 4], IOCQES: [20, 4] } },
  CSTS:  { at: 0x1c, size: 4, fields: { RDY: [0, 1], CFS: [1, 1], SHST: [2, 2] } },
  AQA:   { at: 0x24, size: 4, rw: 0x0fff_0fffn, fields: { ASQS: [0, 12], ACQS: [16, 12] } },
  ASQ:   { at: 0x28, size: 8, rw: 0xffff_ffff_ffff_f000n },
  ACQ:   { at: 0x30, size: 8, rw: 0xffff_ffff_ffff_f000n },
} as const satisfies RegisterTable;

/** First doorbell; stride 4 bytes (CAP.DSTRD = 0). */
export const DOORBELLS = 0x1000;

/** CAP: contiguous queues of up to MAX_QUEUE_ENTRIES, 5 s time-out, NVM command set. */
export const MAX_QUEUE_ENTRIES = 1024;
/** CAP bits 31:0: MQES, CQR, TO. */
export const CAP_LO = (MAX_QUEUE_ENTRIES - 1) | (1 << 16) | (10 << 24);
/** CAP bits 63:32: CSS, the NVM command set. */
export const CAP_HI = 1 << 5;

/** CC.EN. */
export const CC_EN = 1;
/** CSTS.RDY. */
export const CSTS_RDY = 1;
/** CSTS.CFS: fatal status. */
export const CSTS_CFS = 2;
/** CSTS.SHST: shutdown processing is complete. */
export const SHST_COMPLETE = 2 << 2;

/** Bytes of a submission queue entry. */
export const SQE_BYTES = 64;
/** Bytes of a completion queue entry. */
export const CQE_BYTES = 16;
/** log2 bytes of a logical block. */
export const LBA_SHIFT = 9;

/** Opcodes of the admin command set (§5). */
export const ADMIN = {
  DELETE_SQ: 0x00,
  CREATE_SQ: 0x01,
  GET_LOG_PAGE: 0x02,
  DELETE_CQ: 0x04,
  CREATE_CQ: 0x05,
  IDENTIFY: 0x06,
  ABORT: 0x08,
  SET_FEATURES: 0x09,
  GET_FEATURES: 0x0a,
  ASYNC_EVENT: 0x0c,
  KEEP_ALIVE: 0x18,
} as const;

/** Opcodes of the NVM command set (§6). */
export const IO = { FLUSH: 0x00, WRITE: 0x01, READ: 0x02, WRITE_ZEROES: 0x08 } as const;

/** Status code type << 8 | status code (§4.6.1); DNR is added by the completion. */
export const NVME_STATUS = {
  SUCCESS: 0x000,
  INVALID_OPCODE: 0x001,
  INVALID_FIELD: 0x002,
  DATA_TRANSFER_ERROR: 0x004,
  ABORTED_SQ_DELETED: 0x008,
  INVALID_NAMESPACE: 0x00b,
  INVALID_SGL_SEGMENT: 0x00d,
  INVALID_SGL_COUNT: 0x00e,
  SGL_LENGTH: 0x00f,
  INVALID_SGL_TYPE: 0x011,
  INVALID_PRP_OFFSET: 0x013,
  LBA_RANGE: 0x080,
  CQ_INVALID: 0x100,
  INVALID_QUEUE_ID: 0x101,
  INVALID_QUEUE_SIZE: 0x102,
  ASYNC_LIMIT: 0x105,
  INVALID_VECTOR: 0x108,
  INVALID_LOG_PAGE: 0x109,
  QUEUE_DELETION: 0x10c,
} as const;

/** Feature identifiers (§5.21.1). */
export const FEATURE = {
  ARBITRATION: 1,
  POWER: 2,
  TEMPERATURE: 4,
  ERROR_RECOVERY: 5,
  WRITE_CACHE: 6,
  QUEUES: 7,
  COALESCING: 8,
  VECTOR: 9,
  ATOMICITY: 10,
  ASYNC_EVENT: 11,
} as const;

/** SGL descriptor type (§4.4), high nibble of byte 15; only the address sub-type is supported. */
export const SGL = { DATA: 0, BIT_BUCKET: 1, SEGMENT: 2, LAST_SEGMENT: 3 } as const;
