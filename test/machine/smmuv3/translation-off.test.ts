import { expect, test } from 'vitest';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { cfgiSte, RAM, sync } from '../../devices/smmuv3/guest.ts';
import { Rig } from './rig.ts';

const GBPA_UPDATE = 0x8000_1000;
const GBPA_ABORT = 0x0010_0000;
const BYPASS_STE = 9n;
const AT_PAGE = RAM + 0x5000;
const EVENTQ_PROD = 0x100a8;

test.each(['qemu-11.1', 'arch'] as const)(
  'without translation a request with a SubstreamID goes where one without goes (IHI 0070 §6.3.9.6), %s',
  (profile) => {
    const rig = new Rig({ properties: { profile, ssidsize: 8, accel: true, stage: '1' } });
    const { g } = rig;
    rig.plug(8, 0, { pasidBits: 8 });
    const { translate } = rig.units[0]!;
    const send = (pasid: number) => {
      const r = translate.translate(hostRid(8), pasid, AT_PAGE, 0, ACCESS.WRITE, AT.UNTRANSLATED);
      return r === DMA.OK ? Number(rig.vm.memory.gpaOf(translate.out)) : -1;
    };
    expect([NO_PASID, 0, 3].map(send)).toEqual([AT_PAGE, AT_PAGE, AT_PAGE]);
    g.w(PAGE0.GBPA.at, GBPA_UPDATE | GBPA_ABORT);
    expect([NO_PASID, 3].map(send)).toEqual([-1, -1]);
    g.w(PAGE0.GBPA.at, GBPA_UPDATE);

    // With translation on the entry decides: without stage 1 no SubstreamID is valid.
    g.setUp(5);
    g.ste(8, BYPASS_STE, 0n, 0n, 0n, 0n, 0n, 0n, 0n);
    g.run(cfgiSte(8), sync);
    expect([NO_PASID, 3].map(send)).toEqual([AT_PAGE, -1]);
    const records = g.r(EVENTQ_PROD);
    g.w(PAGE0.CR0.at, 0xc);
    expect([NO_PASID, 3].map(send)).toEqual([AT_PAGE, AT_PAGE]);
    expect(g.r(EVENTQ_PROD)).toBe(records);
  },
);
