/**
 * Arm IHI 0070 issue G.b (System Memory Management Unit architecture, version 3): event records, §7.3, and page
 * requests, chapter 8.
 */

import { field, toBigint } from '../../core/bits.ts';

/** Bytes and words of an event record (IHI 0070 §7.3). */
export const EVENT_BYTES = 32;
export const EVENT_WORDS = 8;

// biome-ignore format: table
export const EVENT = {
  F_UUT: 0x01, C_BAD_STREAMID: 0x02, F_STE_FETCH: 0x03, C_BAD_STE: 0x04, F_BAD_ATS_TREQ: 0x05, F_STREAM_DISABLED: 0x06,
  F_TRANSL_FORBIDDEN: 0x07, C_BAD_SUBSTREAMID: 0x08, F_CD_FETCH: 0x09, C_BAD_CD: 0x0a, F_WALK_EABT: 0x0b,
  F_TRANSLATION: 0x10, F_ADDR_SIZE: 0x11, F_ACCESS: 0x12, F_PERMISSION: 0x13,
  F_TLB_CONFLICT: 0x20, F_CFG_CONFLICT: 0x21, E_PAGE_REQUEST: 0x24, F_VMS_FETCH: 0x25,
} as const;
export type EventName = keyof typeof EVENT;

export const EVENT_NAMES: ReadonlyMap<number, EventName> = new Map(
  Object.entries(EVENT).map(([k, v]) => [v, k as EventName]),
);

/** What was being fetched when the fault happened: CD, a translation table, the input address itself. */
export const CLASS = { CD: 0, TT: 1, IN: 2 } as const;

/** Bit masks of a record, by word. */
export const EV0 = { SSV: 1 << 11 } as const;
/** Word 3 (bits [63:32] of the second 64-bit word). */
export const EV3 = { PNU: 1 << 1, IND: 1 << 2, RNW: 1 << 3, S2: 1 << 7, TTRNW: 1 << 12 } as const;
export const EV3_CLASS_SHIFT = 8;
/** Word 2 bit 31: the transaction is stalled. */
export const EV2_STALL = 1 << 31;

type Words = Int32Array | readonly number[];

export const evType = (e: Words, at = 0) => e[at]! & 0xff;
export const evSsv = (e: Words, at = 0) => (e[at]! & EV0.SSV) !== 0;
export const evSsid = (e: Words, at = 0) => e[at]! >>> 12;
export const evSid = (e: Words, at = 0) => e[at + 1]! >>> 0;
export const evStag = (e: Words, at = 0) => e[at + 2]! & 0xffff;
export const evStall = (e: Words, at = 0) => e[at + 2]! < 0;
export const evRnw = (e: Words, at = 0) => (e[at + 3]! & EV3.RNW) !== 0;
export const evS2 = (e: Words, at = 0) => (e[at + 3]! & EV3.S2) !== 0;
export const evClass = (e: Words, at = 0) => field(e[at + 3]!, EV3_CLASS_SHIFT, 2);

/**
 * Writes a record.
 * @param ssid SubstreamID, or -1: no SSV.
 * @param w3 EV3 bits and CLASS << EV3_CLASS_SHIFT.
 */
export function encodeEvent(
  into: Int32Array,
  at: number,
  type: number,
  sid: number,
  ssid: number,
  w3: number,
  inputLo: number,
  inputHi: number,
  addressLo: number,
  addressHi: number,
): void {
  into[at] = type | (ssid >= 0 ? EV0.SSV | (ssid << 12) : 0);
  into[at + 1] = sid;
  into[at + 2] = 0;
  into[at + 3] = w3;
  into[at + 4] = inputLo;
  into[at + 5] = inputHi;
  into[at + 6] = addressLo;
  into[at + 7] = addressHi;
}

/** A record as an object, for listings, traces and tests. */
export interface EventRecord {
  readonly type: EventName | 'reserved';
  readonly code: number;
  readonly sid: number;
  readonly ssid: number | null;
  readonly stall: boolean;
  readonly stag: number;
  readonly read: boolean;
  readonly instruction: boolean;
  readonly privileged: boolean;
  readonly stage2: boolean;
  readonly class: 'CD' | 'TT' | 'IN' | 'reserved';
  readonly input: bigint;
  /** IPA or fetch address, as the type says. */
  readonly address: bigint;
}

export function decodeEvent(e: Words, at = 0): EventRecord {
  const code = evType(e, at);
  return {
    type: EVENT_NAMES.get(code) ?? 'reserved',
    code,
    sid: evSid(e, at),
    ssid: evSsv(e, at) || code === EVENT.C_BAD_SUBSTREAMID ? evSsid(e, at) : null,
    stall: evStall(e, at),
    stag: evStag(e, at),
    read: evRnw(e, at),
    instruction: (e[at + 3]! & EV3.IND) !== 0,
    privileged: (e[at + 3]! & EV3.PNU) !== 0,
    stage2: evS2(e, at),
    class: (['CD', 'TT', 'IN', 'reserved'] as const)[evClass(e, at)]!,
    input: toBigint(e[at + 4]!, e[at + 5]!),
    address: toBigint(e[at + 6]!, e[at + 7]!),
  };
}

/** Page request queue entry (IHI 0070 §8): 16 bytes. Word 0 SID, word 1 SSID/flags, word 2.. address and PRG index. */
export const PRI_BYTES = 16;
export const PRI_WORDS = 4;
/** Flag bits in word 1 (bits [63:32] of the first 64-bit word); its low 20 bits are the SubstreamID. */
export const PRI1 = {
  PRIV: 1 << 26,
  EXEC: 1 << 27,
  READ: 1 << 28,
  WRITE: 1 << 29,
  LAST: 1 << 30,
  SSV: 1 << 31,
} as const;
