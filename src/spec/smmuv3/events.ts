/**
 * Arm IHI 0070 issue G.b (System Memory Management Unit architecture, version 3): event records, §7.3, and page
 * requests, chapter 8.
 */

import { field, toBigint, type WordArray } from '../../core/bits.ts';

/** Bytes and words of an event record (IHI 0070 §7.3). */
export const EVENT_BYTES = 32;
/** 32-bit words of an event record. */
export const EVENT_WORDS = 8;

/** Event numbers (§7.3). */
// biome-ignore format: table
export const EVENT = {
  F_UUT: 0x01, C_BAD_STREAMID: 0x02, F_STE_FETCH: 0x03, C_BAD_STE: 0x04, F_BAD_ATS_TREQ: 0x05, F_STREAM_DISABLED: 0x06,
  F_TRANSL_FORBIDDEN: 0x07, C_BAD_SUBSTREAMID: 0x08, F_CD_FETCH: 0x09, C_BAD_CD: 0x0a, F_WALK_EABT: 0x0b,
  F_TRANSLATION: 0x10, F_ADDR_SIZE: 0x11, F_ACCESS: 0x12, F_PERMISSION: 0x13,
  F_TLB_CONFLICT: 0x20, F_CFG_CONFLICT: 0x21, E_PAGE_REQUEST: 0x24, F_VMS_FETCH: 0x25,
} as const;
/** Name of an event. */
export type EventName = keyof typeof EVENT;

/** Event names by number. */
export const EVENT_NAMES: ReadonlyMap<number, EventName> = new Map(
  Object.entries(EVENT).map(([k, v]) => [v, k as EventName]),
);

/** What was being fetched when the fault happened: CD, a translation table, the input address itself. */
export const CLASS = { CD: 0, TT: 1, IN: 2 } as const;

/** Bit masks of a record, by word. */
export const EV0 = { SSV: 1 << 11 } as const;
/** Word 3 (bits [63:32] of the second 64-bit word). */
export const EV3 = { PNU: 1 << 1, IND: 1 << 2, RNW: 1 << 3, S2: 1 << 7, TTRNW: 1 << 12 } as const;
/** Lowest bit of CLASS in word 3. */
export const EV3_CLASS_SHIFT = 8;
/** Word 2 bit 31: the transaction is stalled. */
export const EV2_STALL = 1 << 31;

/** Event number. */
export const evType = (e: WordArray, at = 0) => e[at]! & 0xff;
/** SSV: the SubstreamID is valid. */
export const evSsv = (e: WordArray, at = 0) => (e[at]! & EV0.SSV) !== 0;
/** SubstreamID; counts while SSV is set. */
export const evSsid = (e: WordArray, at = 0) => e[at]! >>> 12;
/** StreamID. */
export const evSid = (e: WordArray, at = 0) => e[at + 1]! >>> 0;
/** STAG: names the stalled transaction for CMD_RESUME. */
export const evStag = (e: WordArray, at = 0) => e[at + 2]! & 0xffff;
/** Stall: the transaction waits for CMD_RESUME. */
export const evStall = (e: WordArray, at = 0) => e[at + 2]! < 0;
/** RnW: a read. */
export const evRnw = (e: WordArray, at = 0) => (e[at + 3]! & EV3.RNW) !== 0;
/** S2: stage 2 faulted. */
export const evS2 = (e: WordArray, at = 0) => (e[at + 3]! & EV3.S2) !== 0;
/** CLASS: what was accessed, see EventRecord.class. */
export const evClass = (e: WordArray, at = 0) => field(e[at + 3]!, EV3_CLASS_SHIFT, 2);

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
  /** Name of the event. */
  readonly type: EventName | 'reserved';
  /** Event number. */
  readonly code: number;
  /** StreamID. */
  readonly sid: number;
  /** SubstreamID; null without one. */
  readonly ssid: number | null;
  /** The transaction waits for CMD_RESUME. */
  readonly stall: boolean;
  /** Names the stalled transaction. */
  readonly stag: number;
  /** A read; else a write. */
  readonly read: boolean;
  /** An instruction fetch. */
  readonly instruction: boolean;
  /** A privileged access. */
  readonly privileged: boolean;
  /** Stage 2 faulted. */
  readonly stage2: boolean;
  /** What was accessed when it faulted: a context descriptor, a translation table, or the input address. */
  readonly class: 'CD' | 'TT' | 'IN' | 'reserved';
  /** Input address of the transaction. */
  readonly input: bigint;
  /** IPA or fetch address, as the type says. */
  readonly address: bigint;
}

/** Decodes a record. @param e words of the queue. @param at word index of the record. */
export function decodeEvent(e: WordArray, at = 0): EventRecord {
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
/** 32-bit words of a PRI queue entry. */
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
