/** A value of up to 64 bits: an address (bytes) or what was written or read. */
export interface SeenValue {
  /** Bits 31:0, as a signed or unsigned 32-bit number. */
  readonly lo: number;
  /** Bits 63:32, as a signed or unsigned 32-bit number. */
  readonly hi: number;
}

/** What the sanitizer does not know of an access: see `AccessSeen`. */
export const UNSAID = -2;

/** A DMA access that was translated. */
export interface AccessSeen extends SeenValue {
  /** Kind of the event; `lo` and `hi` are the IOVA. */
  readonly t: 'xlat';
  /** Number of the event. */
  readonly i: number;
  /** StreamID or requester id of the function. */
  readonly sid: number;
  /** ACCESS bits it may have had. */
  readonly access: number;
  /** Guest-physical, bytes. */
  readonly out: number;
  /** ACCESS bits of the guest's table entry, or UNSAID: no table of the guest's took part, or it was not told. */
  readonly perm: number;
}

/** A DMA access that was refused. */
export interface RefusalSeen extends SeenValue {
  /** Kind of the event; `lo` and `hi` are the IOVA. */
  readonly t: 'fault';
  /** Number of the event. */
  readonly i: number;
  /** StreamID or requester id of the function. */
  readonly sid: number;
  /** ACCESS bits it may have had. */
  readonly access: number;
  /** SMMUv3 event number or VT-d fault reason, or UNSAID. */
  readonly reason: number;
}

/** A device's message through VT-d interrupt remapping. */
export interface MessageSeen {
  /** Kind of the event. */
  readonly t: 'remap';
  /** Number of the event. */
  readonly i: number;
  /** The table entry that remapped it, by its index; null: the message was refused or passed as it was. */
  readonly irte: { readonly index: number } | null;
}

/** A function asked for a page. */
export interface PageRequestSeen extends SeenValue {
  /** Kind of the event; `lo` and `hi` are the IOVA. */
  readonly t: 'prq';
  /** Number of the event. */
  readonly i: number;
  /** StreamID or requester id of the function. */
  readonly sid: number;
  /** Page request group index, 0 to 511. */
  readonly group: number;
  /** It is the last of its group: an answer is asked for. */
  readonly last: boolean;
}

/** ATS was switched in a function's configuration space. No recording has it. */
export interface AtsSeen {
  /** Kind of the event. */
  readonly t: 'ats';
  /** Number of the event. */
  readonly i: number;
  /** StreamID or requester id of the function. */
  readonly sid: number;
  /** It is on from now on. */
  readonly on: boolean;
}

/**
 * What a sanitizer is told of a machine: `i` numbers the events in causal order. The words are those of a viommu-trace,
 * so that an event of a recording is one of these.
 */
export type SeenEvent =
  | {
      readonly t: 'page';
      readonly i: number;
      readonly gpa: number;
      readonly kind: string;
      readonly data: Uint8Array | null;
    }
  | (SeenValue & {
      readonly t: 'st';
      readonly i: number;
      readonly gpa: number;
      readonly size: number;
      readonly pc?: readonly [number, number];
    })
  | { readonly t: 'drop'; readonly i: number; readonly gpa: number }
  | (SeenValue & { readonly t: 'w' | 'r'; readonly i: number; readonly off: number; readonly size: number })
  | AccessSeen
  | RefusalSeen
  | { readonly t: 'frcd'; readonly i: number; readonly words: readonly [number, number, number, number] }
  | { readonly t: 'dst'; readonly i: number; readonly gpa: number; readonly bytes: Uint8Array }
  | { readonly t: 'irq'; readonly i: number; readonly line: string }
  | { readonly t: 'msi'; readonly i: number; readonly address: number; readonly data: number }
  | MessageSeen
  | PageRequestSeen
  | AtsSeen
  | { readonly t: 'cmd' | 'note' | 'reset'; readonly i: number };

/** The machine the events are of. */
export interface SeenMachine {
  /** Which IOMMU the guest has. */
  readonly iommu: 'smmuv3' | 'vtd';
  /** Guest RAM, guest-physical, bytes. */
  readonly ram: readonly { readonly gpa: number; readonly size: number }[];
  /** Names for findings; `sid` is a StreamID or requester id, `ats`: it has ATS. */
  readonly devices: readonly { readonly name: string; readonly sid: number; readonly ats: boolean }[];
}
