import { describe, expect, test } from 'vitest';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { ACCESS, ATS, type EndpointPort, NO_PASID } from '../../../src/ports/dma.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { cfgiSte, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, space } from './rig.ts';

const SID = 8;
const ATC_INV_SYNC = 3;
const CMDQ_ERR = 1;

/** A function with ATS that answers invalidations when it is told to. */
function machine() {
  const rig = new Rig({ properties: { profile: 'arch', ats: true } });
  const { g } = rig;
  const { hardware, endpoints } = rig.units[0]!;
  const asked: { rid: number; itag: number }[] = [];
  const endpoint: EndpointPort = {
    invalidate: (rid, _pasid, itag) => asked.push({ rid, itag }) > 0,
    pageResponse() {},
    resumed() {},
  };
  endpoints.to = endpoint;
  const answer = () => {
    for (const a of asked.splice(0)) hardware.invalidateCompletion(a.rid, (1 << a.itag) >>> 0, 1);
  };
  const a = space(g, 0, 0x11);
  a.tables.map(0x5000, 0x4040_5000);
  const fn = rig.plug(SID, 0, { ats: true });
  const on = () => {
    g.setUp(5);
    g.ste(SID, a.ste, 1n << 28n, 0n, 0n, 0n, 0n, 0n, 0n);
    g.run(cfgiSte(SID));
    answer();
    expect(hardware.translationRequest(hostRid(SID), NO_PASID, 0x5000, 0, ACCESS.READ)).toBe(ATS.SUCCESS);
  };
  on();
  const invalidate = (sid = SID) => g.run([0x40n | (BigInt(sid) << 32n), 0x5000n]);
  /** CMDQ_CONS.ERR while CMDQ_ERR is active; 0: none. @returns it, and whether the queue came to its end. */
  const state = () => {
    const cons = g.r(PAGE0.CMDQ_CONS.at);
    const active = ((g.r(PAGE0.GERROR.at) ^ g.r(PAGE0.GERRORN.at)) & CMDQ_ERR) !== 0;
    return [active ? (cons >>> 24) & 0x7f : 0, (cons & 0xffff) === (g.r(PAGE0.CMDQ_PROD.at) & 0xffff)];
  };
  const steps = {
    invalidate: () => void invalidate(),
    invalidateOther: () => void invalidate(0x33),
    remove: () => fn.remove(),
    add: () => void rig.plug(SID, 0, { ats: true }),
    answer,
  };
  return { rig, g, fn, on, asked, answer, invalidate, state, steps };
}

type Step = keyof ReturnType<typeof machine>['steps'];

describe('an ATC invalidation that nobody answers', () => {
  test.each<[string, readonly Step[]]>([
    ['stays silent', ['invalidate']],
    ['is taken out meanwhile', ['invalidate', 'remove']],
    ['comes back meanwhile', ['invalidate', 'remove', 'add']],
  ])('because its function %s is an error of the CMD_SYNC behind it', (_, steps) => {
    const m = machine();
    for (const step of steps) m.steps[step]();
    m.g.run(sync);
    m.rig.vm.clock.advance(200e9);
    expect(m.state()).toEqual([ATC_INV_SYNC, false]);
    // The guest acknowledges, and the CMD_SYNC completes for the rest.
    m.g.w(PAGE0.GERRORN.at, m.g.r(PAGE0.GERROR.at));
    m.answer();
    expect(m.state()).toEqual([0, true]);
  });

  test.each<[string, readonly Step[]]>([
    ['has been taken out', ['remove', 'answer', 'invalidate']],
    ['was never there', ['invalidateOther']],
  ])('because its function %s is complete: an Unsupported Request counts as an answer', (_, steps) => {
    const m = machine();
    for (const step of steps) m.steps[step]();
    m.g.run(sync);
    expect(m.state()).toEqual([0, true]);
  });
});

test('what the host itself asks a function that is taken out is no error of the guest', () => {
  const m = machine();
  m.fn.remove();
  m.rig.vm.clock.advance(200e9);
  m.g.run(sync);
  expect(m.state()).toEqual([0, true]);
});

test('a reset of the SMMU forgets what is outstanding: the next driver’s first CMD_SYNC completes', () => {
  const m = machine();
  m.invalidate();
  m.g.run(sync);
  expect(m.state()).toEqual([0, false]);
  m.rig.units[0]!.reset();
  m.on();
  m.asked.length = 0;
  m.g.run(sync);
  expect(m.state()).toEqual([0, true]);
  m.rig.vm.clock.advance(200e9);
  m.g.run(sync);
  expect(m.state()).toEqual([0, true]);
});
