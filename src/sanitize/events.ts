/** One word for a value as lo/hi words. */
interface Value {
  readonly lo: number;
  readonly hi: number;
}

/** What the sanitizer does not know of an access: see `AccessSeen`. */
export const UNSAID = -2;

/** A DMA access that was translated. */
export interface AccessSeen extends Value {
  readonly t: 'xlat';
  readonly i: number;
  readonly sid: number;
  /** ACCESS bits it may have had. */
  readonly access: number;
  /** Guest-physical, bytes. */
  readonly out: number;
  /** ACCESS bits of the guest's table entry, or UNSAID: no table of the guest's took part, or it was not told. */
  readonly perm: number;
}

/** A DMA access that was refused. `reason`: SMMUv3 event number or VT-d fault reason, or UNSAID. */
export interface RefusalSeen extends Value {
  readonly t: 'fault';
  readonly i: number;
  readonly sid: number;
  readonly access: number;
  readonly reason: number;
}

/** A device's message through VT-d interrupt remapping; `irte` is the entry that remapped it. */
export interface MessageSeen {
  readonly t: 'remap';
  readonly i: number;
  readonly irte: { readonly index: number } | null;
}

/** A function asked for a page. */
export interface PageRequestSeen extends Value {
  readonly t: 'prq';
  readonly i: number;
  readonly sid: number;
  readonly group: number;
  readonly last: boolean;
}

/** ATS was switched in a function's configuration space. No recording has it. */
export interface AtsSeen {
  readonly t: 'ats';
  readonly i: number;
  readonly sid: number;
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
  | (Value & {
      readonly t: 'st';
      readonly i: number;
      readonly gpa: number;
      readonly size: number;
      readonly pc?: readonly [number, number];
    })
  | { readonly t: 'drop'; readonly i: number; readonly gpa: number }
  | (Value & { readonly t: 'w' | 'r'; readonly i: number; readonly off: number; readonly size: number })
  | AccessSeen
  | RefusalSeen
  | { readonly t: 'frcd'; readonly i: number; readonly words: readonly [number, number, number, number] }
  | { readonly t: 'dst'; readonly i: number; readonly gpa: number; readonly bytes: Uint8Array }
  | { readonly t: 'irq'; readonly i: number; readonly line: string }
  | { readonly t: 'msi'; readonly i: number; readonly address: number; readonly data: number }
  | MessageSeen
  | PageRequestSeen
  | AtsSeen
  | { readonly t: 'note' | 'reset'; readonly i: number };

/** The machine the events are of. */
export interface SeenMachine {
  readonly iommu: 'smmuv3' | 'vtd';
  readonly ram: readonly { readonly gpa: number; readonly size: number }[];
  readonly devices: readonly { readonly name: string; readonly sid: number; readonly ats: boolean }[];
}
