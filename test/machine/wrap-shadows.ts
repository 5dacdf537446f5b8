import type { HostUpcalls, ShadowTable } from '../../src/ports/upcalls.ts';

/** What a host does for tables of shadows and may refuse. */
export type ShadowVerb = 'shadowTable' | 'map' | 'unmap' | 'clear';

/** Puts `answer` before everything a host does for tables of shadows: it calls the real thing, or refuses. */
export function wrapShadows(upcalls: HostUpcalls, answer: (verb: ShadowVerb, real: () => number) => number): void {
  const real = upcalls.shadowTable!.bind(upcalls);
  upcalls.shadowTable = (hwptId, ramIoasId) => {
    let table: ShadowTable | number = 0;
    const r = answer('shadowTable', () => {
      table = real(hwptId, ramIoasId);
      return typeof table === 'number' ? table : 0;
    });
    const made = table as ShadowTable | number;
    if (r < 0 || typeof made === 'number') return r;
    return {
      get pages() {
        return made.pages;
      },
      perm: (page) => made.perm(page),
      map: (...a) => answer('map', () => made.map(...a)),
      unmap: (...a) => answer('unmap', () => made.unmap(...a)),
      clear: () => answer('clear', () => made.clear()),
    };
  };
}
