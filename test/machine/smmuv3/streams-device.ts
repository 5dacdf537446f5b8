import { cfgiSte, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, type RigOptions, space } from './rig.ts';

export const PAGE = 0x4040_5000;
export const OTHER = 0x4040_7000;
const EVENTQ_PROD = 0x100a8;
export const ILL = 0x0100_0000;
export const F_STE_FETCH = 3;
export const C_BAD_STE = 4;
export const ABORT_STE = 1n;
export const BYPASS_STE = 9n;

/** One device with StreamIDs, its tables A (ASID 0x11) and B (ASID 0x12) mapping 0x5000 to different pages. */
export function device(sids: readonly number[], o: RigOptions = {}, description: object = {}) {
  const rig = new Rig(o);
  const { g } = rig;
  const a = space(g, 0, 0x11);
  const b = space(g, 1, 0x12);
  a.tables.map(0x5000, PAGE);
  b.tables.map(0x5000, OTHER);
  const fn = rig.plug(sids, 0, description);
  const set = (sid: number, ...words: bigint[]) => {
    g.ste(sid, ...words, ...new Array(8 - words.length).fill(0n));
    return g.run(cfgiSte(sid), sync);
  };
  const dma = (iova = 0x5000) => sids.map((sid) => rig.dma(sid, iova));
  const state = (sid: number) => rig.units[0]!.device.streams.find((s) => s.sid === sid)!;
  return { rig, g, a, b, fn, set, dma, state };
}

/** What the events since the last call say: type and StreamID. */
export function events(g: Rig['g']): [number, number][] {
  const cons = g.r(EVENTQ_PROD + 4);
  const out: [number, number][] = [];
  for (let i = cons & 7; i !== (g.r(EVENTQ_PROD) & 7); i = (i + 1) & 7) {
    const e = g.event(i)[0]!;
    out.push([Number(e & 0xffn), Number(e >> 32n)]);
  }
  g.w(EVENTQ_PROD + 4, g.r(EVENTQ_PROD));
  return out;
}
