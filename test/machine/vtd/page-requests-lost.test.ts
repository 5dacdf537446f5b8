import { describe, expect, test } from 'vitest';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { PAGE } from '../../../src/spec/vtd/registers.ts';
import { FIRST, Rig, SlowEndpoint } from './rig.ts';

const RID = 0x10;
/** Linux's own driver answers a request without a PASID by itself. */
const ASKED = { all: 20, linuxOnly: 10 } as const;

/** A guest with a function that asks for pages, with and without a PASID. */
function machine(linuxOnly: boolean) {
  const props = {
    profile: 'arch',
    scalableMode: true,
    fsts: true,
    pasidBits: 8,
    deviceIotlb: true,
    svm: true,
  } as const;
  const rig = new Rig({ props, linuxOnly });
  const { g } = rig;
  const unit = rig.units[0]!;
  const endpoint = new SlowEndpoint(unit);
  const control = { setAts() {}, setPri() {} };
  const fn = rig.plug(RID, 0, { ats: true, pri: true, pasidBits: 8, maxPasids: 256, control });
  const root = rig.page();
  rig.scalable(RID, 0, FIRST(1, root));
  rig.scalable(RID, 5, FIRST(2, root));
  const on = () => {
    g.w64(PAGE.PQA.at, 0x1e_0000n);
    g.w32(PAGE.PQH.at, 0);
    g.w32(PAGE.PQT.at, 0);
    g.queueOn(true);
    g.translateOn(rig.root(1));
    for (let i = 0; i < 10 && g.r32(PAGE.GSTS.at) >>> 31 === 0; i++);
    rig.dma(RID, 0x5000);
    rig.dma(RID, 0x5000, 2, 5);
  };
  const ask = () => {
    // Each is a group of its own.
    for (let i = 0; i < 20; i++) {
      unit.hardware.pageRequest(hostRid(RID), i < 10 ? NO_PASID : 5, 0x7000 + i * 4096, 0, 2, i, true);
    }
  };
  const waiting = () => rig.vm.usage().pageRequests.used;
  return { rig, g, unit, endpoint, fn, on, ask, waiting };
}

describe.each([false, true])('page requests that wait for an answer (linux-only: %s)', (linuxOnly) => {
  test.each<[string, (m: ReturnType<typeof machine>) => void]>([
    ['a reset of the unit', (m) => m.unit.reset()],
    ['TE off', (m) => m.g.w32(PAGE.GCMD.at, 0x0400_0000)],
    ['a function that is taken out', (m) => m.fn.remove()],
  ])('are none behind %s', (_, end) => {
    const m = machine(linuxOnly);
    m.on();
    m.ask();
    expect(m.waiting()).toBe(linuxOnly ? ASKED.linuxOnly : ASKED.all);
    end(m);
    expect(m.waiting()).toBe(0);
  });
});

describe('a host that refuses a function once', () => {
  /** The n-th attach is refused, and what follows is not. */
  function refusing(m: ReturnType<typeof machine>, errno: number, n: number) {
    const vfio = m.fn.vfio as unknown as { attach(...a: unknown[]): number };
    const real = vfio.attach.bind(vfio);
    let left = n;
    vfio.attach = (...a) => (--left === 0 ? -errno : real(...a));
  }

  test.each([1, 2])('for want of memory leaves it its page requests (attach %i)', (n) => {
    const m = machine(true);
    refusing(m, E.NOMEM, n);
    m.on();
    m.ask();
    expect(m.waiting()).toBe(ASKED.linuxOnly);
  });

  test('and after a reset a function that was taken for one without PRI has them again', () => {
    const m = machine(true);
    refusing(m, E.NODEV, 1);
    m.on();
    m.ask();
    expect(m.waiting()).toBeLessThan(ASKED.linuxOnly);
    m.unit.reset();
    m.on();
    m.ask();
    expect(m.waiting()).toBe(ASKED.linuxOnly);
  });
});
