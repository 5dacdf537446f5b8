/** Which function a message is from or for. */
export interface Routed {
  /** Stream of the function (hardware numbering). */
  readonly stream: number;
  /** NO_PASID: no prefix. */
  readonly pasid: number;
}

/** What travels on the links, as the PCI Express and ATS specifications name it. Seen by whoever listens on a root complex. */
export type BusMessage =
  | (Routed & {
      readonly kind: 'memory read' | 'memory write';
      readonly address: bigint;
      /** AT field: 0 untranslated, 2 translated. */
      readonly at: number;
      readonly access: number;
      readonly bytes: number;
      /** DMA value of the completion. */
      readonly outcome: number;
    })
  | (Routed & {
      readonly kind: 'interrupt message';
      readonly address: bigint;
      readonly data: number;
      readonly outcome: number;
    })
  | (Routed & {
      readonly kind: 'translation request';
      readonly address: bigint;
      readonly access: number;
      /** ATS value; the rest counts for SUCCESS. */
      readonly status: number;
      readonly translated: bigint;
      readonly shift: number;
      readonly granted: number;
    })
  | (Routed & {
      readonly kind: 'invalidate request';
      readonly address: bigint;
      readonly itag: number;
      readonly global: boolean;
    })
  | (Routed & { readonly kind: 'invalidate completion'; readonly itags: number; readonly count: number })
  | (Routed & {
      readonly kind: 'page request';
      readonly address: bigint;
      readonly access: number;
      readonly group: number;
      readonly last: boolean;
    })
  | (Routed & { readonly kind: 'page group response'; readonly group: number; readonly code: number });

/** Hears one message; called as it passes, so it must not send any. */
export type BusListener = (message: BusMessage) => void;
