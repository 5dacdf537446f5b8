import { type FormOf, UNSIGNED, WORD } from '../../src/lib/saved/state-form.ts';
import { NO_PASID } from '../../src/ports/dma.ts';

/**
 * Work descriptors of the DMA engine and the accelerator: 16 words.
 *
 * | word | |
 * |---|---|
 * | 0 | [7:0] operation, [8] interrupt when done, [9] ask for missing pages (PRI) instead of failing |
 * | 1 | [19:0] PASID, [31] the descriptor names its PASID (where the queue lets it) |
 * | 2, 3 | completion record address, 0: none |
 * | 4, 5 / 6, 7 | source / destination |
 * | 8 | length in bytes, 1 … MOST_BYTES |
 * | 9 | fill pattern |
 */
export const DESCRIPTOR_WORDS = 16;
/** Longest copy, fill or compare: 1 MiB. */
export const MOST_BYTES = 1 << 20;

/** Operations. COMPARE ends with DIFFERENT when the two ranges differ. */
export const WORK_OP = { NOP: 0, COPY: 1, FILL: 2, COMPARE: 3 } as const;
/** Bits beside the operation (word 0) and the PASID (word 1). */
export const WORK_FLAG = { INTERRUPT: 0x100, ASK: 0x200, NAMES_PASID: 0x8000_0000 } as const;

/** Completion record: status, bytes done, address of the fault (low, high). */
export const WORK_STATUS = { NONE: 0, SUCCESS: 1, FAULT: 2, BAD: 3, DIFFERENT: 4, GIVEN_UP: 5 } as const;

/** A descriptor, taken apart. */
export interface Descriptor {
  /** A WORK_OP value. */
  readonly op: number;
  /** An interrupt when it is done. */
  readonly interrupt: boolean;
  /** Missing pages are asked for (PRI) instead of ending the work. */
  readonly ask: boolean;
  /** PASID of its requests, or NO_PASID. */
  readonly pasid: number;
  /** Address of the completion record, low word; 0 in both words: none. */
  readonly doneLo: number;
  /** Address of the completion record, high word. */
  readonly doneHi: number;
  /** Source, low word. */
  readonly srcLo: number;
  /** Source, high word. */
  readonly srcHi: number;
  /** Destination, low word. */
  readonly dstLo: number;
  /** Destination, high word. */
  readonly dstHi: number;
  /** Length in bytes, 1 to MOST_BYTES. */
  readonly bytes: number;
  /** What FILL writes, 32 bits. */
  readonly pattern: number;
}

/** What each field of a saved descriptor may hold. */
export const DESCRIPTOR_FORM: FormOf<Descriptor> = {
  members: {
    op: { from: 0, to: 255 },
    interrupt: 'boolean',
    ask: 'boolean',
    pasid: { from: NO_PASID, to: 0xf_ffff },
    doneLo: WORD,
    doneHi: WORD,
    srcLo: WORD,
    srcHi: WORD,
    dstLo: WORD,
    dstHi: WORD,
    bytes: UNSIGNED,
    pattern: WORD,
  },
};

/** @param pasid what the queue sends; the descriptor's own counts only when `own` says so. */
export function decodeDescriptor(words: Int32Array, pasid: number, own: boolean): Descriptor {
  const named = own && (words[1]! & WORK_FLAG.NAMES_PASID) !== 0;
  return {
    op: words[0]! & 0xff,
    interrupt: (words[0]! & WORK_FLAG.INTERRUPT) !== 0,
    ask: (words[0]! & WORK_FLAG.ASK) !== 0,
    pasid: named ? words[1]! & 0xf_ffff : pasid,
    doneLo: words[2]!,
    doneHi: words[3]!,
    srcLo: words[4]!,
    srcHi: words[5]!,
    dstLo: words[6]!,
    dstHi: words[7]!,
    bytes: words[8]! >>> 0,
    pattern: words[9]!,
  };
}

/** What a driver writes: the words of a descriptor. */
export function encodeDescriptor(d: Partial<Descriptor> & { readonly op: number }): Int32Array {
  const w = new Int32Array(DESCRIPTOR_WORDS);
  w[0] = d.op | (d.interrupt === true ? WORK_FLAG.INTERRUPT : 0) | (d.ask === true ? WORK_FLAG.ASK : 0);
  if (d.pasid !== undefined && d.pasid !== NO_PASID) w[1] = d.pasid | WORK_FLAG.NAMES_PASID;
  w[2] = d.doneLo ?? 0;
  w[3] = d.doneHi ?? 0;
  w[4] = d.srcLo ?? 0;
  w[5] = d.srcHi ?? 0;
  w[6] = d.dstLo ?? 0;
  w[7] = d.dstHi ?? 0;
  w[8] = d.bytes ?? 0;
  w[9] = d.pattern ?? 0;
  return w;
}
