import { describe, expect, test } from 'vitest';
import { PAGE } from '../../../src/spec/vtd/registers.ts';
import { Rig, SlowEndpoint } from './rig.ts';

const RID = 0x10;
/** Nobody's source id. */
const OTHER = 0x33;
const ITE = 0x40;
const STATUS = 0x60_0000;
const A = 0x100_0000;

/** A function with ATS in legacy mode that answers device-TLB invalidations when it is told to. */
function machine(profile: 'arch' | 'qemu-11.1' = 'arch', description: object = { ats: true }) {
  const rig = new Rig({ props: { profile, deviceIotlb: true } });
  const { g } = rig;
  const endpoint = new SlowEndpoint(rig.units[0]!);
  const fn = rig.plug(RID, 0, description);
  const table = rig.page();
  g.map(table, 0x5000, A, 3n, rig.pools[0]!);
  rig.legacy(RID, 5, table);
  g.store(0x20_1000 + 16 * RID, BigInt(table) | 5n);
  const on = () => {
    g.queueOn();
    g.translateOn(rig.root());
    endpoint.answer();
    rig.dma(RID, 0x5000);
    endpoint.answer();
  };
  on();
  const invalidate = (sid = RID) => g.submit((BigInt(sid) << 32n) | 3n, 0x5000n);
  const wait = (status: number) => g.submit(0x25n | (BigInt(status) << 32n), BigInt(STATUS));
  const status = () => Number(g.load(STATUS) & 0xffff_ffffn);
  /** FSTS.ITE and its source id. */
  const error = () => [g.r32(PAGE.FSTS.at) & ITE, g.r32(PAGE.IQERCD.at + 4) & 0xffff];
  const steps = {
    invalidate: () => invalidate(),
    invalidateOther: () => invalidate(OTHER),
    remove: () => fn.remove(),
    add: () => void rig.plug(RID, 0, { ats: true }),
  };
  return { rig, g, endpoint, fn, on, invalidate, wait, status, error, steps };
}

type Step = keyof ReturnType<typeof machine>['steps'];

describe('a device-TLB invalidation that nobody answers', () => {
  test.each<[string, readonly Step[], number]>([
    ['stays silent', ['invalidate'], RID],
    ['is taken out before', ['remove', 'invalidate'], RID],
    ['is taken out meanwhile', ['invalidate', 'remove'], RID],
    ['comes back meanwhile', ['invalidate', 'remove', 'add'], RID],
    ['was never there', ['invalidateOther'], OTHER],
  ])('because its function %s is a time-out under its source id, and aborts the wait behind it', (_, steps, sid) => {
    const m = machine();
    for (const step of steps) m.steps[step]();
    m.wait(7);
    m.rig.vm.clock.advance(200e9);
    expect([m.error(), m.status()]).toEqual([[ITE, sid], 0]);
    // The guest clears ITE, and the queue goes on with a wait that completes.
    m.g.w32(PAGE.FSTS.at, ITE);
    m.wait(8);
    m.endpoint.answer();
    expect([m.error()[0], m.status()]).toEqual([0, 8]);
  });

  test('because its function has no ATS is one as well', () => {
    const m = machine('arch', {});
    m.invalidate();
    m.wait(7);
    expect([m.error(), m.status()]).toEqual([[ITE, RID], 0]);
  });

  test('is nothing to QEMU, which has no time-out', () => {
    const m = machine('qemu-11.1');
    m.fn.remove();
    m.endpoint.answer();
    m.invalidate();
    m.invalidate(OTHER);
    m.wait(7);
    expect([m.error()[0], m.status()]).toEqual([0, 7]);
  });
});

test('what the host itself asks a function that is taken out is no error of the guest', () => {
  const m = machine();
  m.fn.remove();
  m.rig.vm.clock.advance(200e9);
  expect(m.error()[0]).toBe(0);
  m.wait(7);
  expect(m.status()).toBe(7);
});

test('a reset of the unit forgets what is outstanding: the next driver’s first wait completes, and no time-out comes', () => {
  const m = machine();
  m.invalidate();
  m.wait(7);
  m.rig.units[0]!.reset();
  m.on();
  m.endpoint.asked.length = 0;
  m.wait(9);
  expect(m.status()).toBe(9);
  m.rig.vm.clock.advance(200e9);
  expect(m.error()[0]).toBe(0);
});
