import { describe, expect, test } from 'vitest';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { ACCESS, AT, ATS, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { EVENT } from '../../../src/spec/smmuv3/events.ts';
import { CR2, PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { cfgiSte, R, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, space } from './rig.ts';

const SID = 8;

/** A function with ATS whose guest asks, or does not ask, for records of translation requests. */
function guest(asks: boolean) {
  const rig = new Rig({ properties: { profile: 'arch', ats: true } });
  const { g } = rig;
  const { ste } = space(g, 0, 0x11);
  rig.plug(SID, 0, { ats: true });
  g.w(PAGE0.CR2.at, asks ? CR2.REC_CFG_ATS : 0);
  g.setUp();
  g.ste(SID, ste, 1n << 28n);
  g.run(cfgiSte(SID), sync);
  const hw = rig.units[0]!.hardware;
  const request = () => hw.translationRequest(hostRid(SID), NO_PASID, 0x5000, 0, ACCESS.READ);
  const translated = () => hw.translate(hostRid(SID), NO_PASID, 0x5000, 0, ACCESS.READ, AT.TRANSLATED);
  /** Event codes of new records. */
  let read = 0;
  const codes = () => {
    const out: number[] = [];
    for (; read < g.r(R.EVENTQ_PROD); read++) out.push(Number(g.event(read)[0]! & 0xffn));
    return out;
  };
  const configure = (w0: bigint, w1 = 1n << 28n) => {
    g.ste(SID, w0, w1);
    g.run(cfgiSte(SID), sync);
  };
  return { rig, g, request, translated, codes, configure };
}

describe.each([false, true])('CR2.REC_CFG_ATS=%s reaches the hardware', (asks) => {
  test('a bad entry: a translation request is answered CA, a translated access aborts, and both are recorded if asked', () => {
    const { request, translated, codes, configure } = guest(asks);
    configure(0n);
    expect([request(), codes()]).toEqual([ATS.CA, asks ? [EVENT.C_BAD_STE] : []]);
    expect([translated(), codes()]).toEqual([DMA.ABORT, asks ? [EVENT.C_BAD_STE] : []]);
  });

  test('a bad context descriptor: recorded if asked, and for ordinary accesses always', () => {
    const { rig, g, request, codes } = guest(asks);
    g.put(0x4040_0000, 0n);
    g.run([(BigInt(SID) << 32n) | 5n, 1], sync);
    expect([request(), codes()]).toEqual([ATS.CA, asks ? [EVENT.C_BAD_CD] : []]);
    expect([rig.dma(SID, 0x5000), codes()]).toEqual(['ABORT', [EVENT.C_BAD_CD]]);
  });
});

test('IDR0.NS1ATS: there is no split-stage ATS, and an entry that asks for it is bad', () => {
  const { g, codes, configure, rig } = guest(false);
  expect((g.r(PAGE0.IDR0.at) >>> 11) & 1).toBe(1);
  g.w(PAGE0.CR0.at, 0x1d);
  configure(0x4040_000fn, 2n << 28n);
  expect([rig.dma(SID, 0x5000), codes()]).toEqual(['ABORT', [EVENT.C_BAD_STE]]);
});
