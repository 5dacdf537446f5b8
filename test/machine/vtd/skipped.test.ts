import { describe, expect, test } from 'vitest';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { PAGE } from '../../../src/spec/vtd/registers.ts';
import { FIRST, Rig, SlowEndpoint } from './rig.ts';

const RID = 0x10;
const STATUS = 0x10_2000;
const IQE = 0x10;
type Verb = 'invalidateDeviceTlb' | 'respond';

/** A guest with a function that has ATS, PRI and PASIDs, over a host whose verbs can be made to refuse. */
function machine() {
  const props = {
    profile: 'arch',
    scalableMode: true,
    fsts: true,
    pasidBits: 8,
    deviceIotlb: true,
    svm: true,
  } as const;
  const rig = new Rig({ props });
  const { g } = rig;
  const unit = rig.units[0]!;
  const endpoint = new SlowEndpoint(unit);
  rig.plug(RID, 0, { ats: true, pri: true, pasidBits: 8, maxPasids: 256, control: { setAts() {}, setPri() {} } });
  const root = rig.page();
  rig.scalable(RID, 0, FIRST(1, root));
  rig.scalable(RID, 5, FIRST(2, root));
  g.w64(PAGE.PQA.at, 0x1e_0000n);
  g.queueOn(true);
  g.translateOn(rig.root(1));
  rig.dma(RID, 0x5000);
  rig.dma(RID, 0x5000, 2, 5);
  endpoint.answer();
  const upcalls = rig.vm.upcalls as unknown as Record<Verb, ((...a: unknown[]) => number) | undefined>;
  const calls: unknown[][] = [];
  const refuse = (verb: Verb, errno: number) => {
    calls.length = 0;
    const real = (rig.vm.upcalls as unknown as Record<Verb, (...a: unknown[]) => number>)[verb];
    upcalls[verb] = (...a) => (errno === 0 ? real.call(rig.vm.upcalls, ...a) : calls.push(a) && -errno);
    return () => {
      upcalls[verb] = (...a) => {
        calls.push(a);
        return real.call(rig.vm.upcalls, ...a);
      };
    };
  };
  const told = () => g.r32(PAGE.FSTS.at) & IQE;
  /** As Linux does: a wait is put into the place of what the queue stands at, and IQE is cleared. */
  const skip = (status: number) => {
    const at = g.queue + g.r32(PAGE.IQH.at);
    g.store(at, 0x25n | (BigInt(status) << 32n), BigInt(STATUS), 0n, 0n);
    g.w32(PAGE.FSTS.at, IQE);
  };
  const status = () => Number(g.load(STATUS) & 0xffff_ffffn);
  return { rig, g, unit, endpoint, refuse, calls, told, skip, status };
}

const DEVICE = [3n | (BigInt(RID) << 32n), 0x5000n] as const;
const OF_PASID = [8n | (BigInt(RID) << 16n) | (5n << 32n), 0x5000n] as const;
const GLOBAL = [8n | (BigInt(RID) << 16n) | (5n << 32n), 0x5001n] as const;

describe('a device-TLB descriptor that the host refuses and the guest puts a wait in place of', () => {
  test.each<[string, readonly bigint[], readonly number[]]>([
    ['without a PASID', DEVICE, [NO_PASID]],
    ['of a PASID', OF_PASID, [5]],
    ['of all PASIDs', GLOBAL, [NO_PASID, 5]],
  ])('%s: the wait completes behind an invalidation of all that it can have named', (_, words, pasids) => {
    const m = machine();
    const mend = m.refuse('invalidateDeviceTlb', E.NOMEM);
    m.g.submit(...words);
    expect([m.told(), m.endpoint.asked.length]).toEqual([IQE, 0]);
    // The host goes on refusing: so does the wait.
    m.skip(7);
    expect([m.told(), m.status()]).toEqual([IQE, 0]);
    m.skip(8);
    expect([m.told(), m.status()]).toEqual([IQE, 0]);
    mend();
    m.skip(9);
    expect([m.told(), m.status()]).toEqual([0, 0]);
    expect(m.endpoint.asked.map((a) => a.pasid).sort()).toEqual([...pasids].sort());
    for (const a of m.endpoint.asked) expect([a.lo >>> 0, a.hi >>> 0]).toEqual([0xffff_f800, 0x7fff_ffff]);
    m.endpoint.answer();
    expect(m.status()).toBe(9);
    // The next wait sends nothing any more.
    m.g.submit(0x25n | (10n << 32n), BigInt(STATUS));
    expect([m.status(), m.endpoint.asked]).toEqual([10, []]);
  });

  test('is made up for behind other descriptors that the guest puts there first', () => {
    const m = machine();
    const mend = m.refuse('invalidateDeviceTlb', E.IO);
    m.g.submit(...DEVICE);
    m.g.store(m.g.queue + m.g.r32(PAGE.IQH.at), ...OF_PASID, 0n, 0n);
    m.g.w32(PAGE.FSTS.at, IQE);
    expect(m.told()).toBe(IQE);
    mend();
    m.skip(7);
    expect(m.endpoint.asked.map((a) => a.pasid).sort()).toEqual([NO_PASID, 5].sort());
    m.endpoint.answer();
    expect(m.status()).toBe(7);
  });

  test('is not made up for when the guest has it executed again', () => {
    const m = machine();
    const mend = m.refuse('invalidateDeviceTlb', E.NOMEM);
    m.g.submit(...DEVICE);
    mend();
    m.g.w32(PAGE.FSTS.at, IQE);
    expect(m.endpoint.asked.map((a) => a.lo)).toEqual([0x5000]);
    m.endpoint.answer();
    m.g.submit(0x25n | (7n << 32n), BigInt(STATUS));
    expect([m.status(), m.endpoint.asked]).toEqual([7, []]);
  });

  test('is nothing behind a reset', () => {
    const m = machine();
    const mend = m.refuse('invalidateDeviceTlb', E.NOMEM);
    m.g.submit(...DEVICE);
    m.skip(7);
    m.unit.reset();
    mend();
    m.calls.length = 0;
    m.g.queueOn(true);
    m.g.submit(0x25n | (7n << 32n), BigInt(STATUS));
    expect([m.status(), m.calls]).toEqual([7, []]);
  });
});

describe('an answer to a page request that the host refuses', () => {
  const ANSWER = [9n | (BigInt(RID) << 16n) | 0x10n | (5n << 32n), 3n << 3n] as const;

  function asked() {
    const m = machine();
    m.unit.hardware.pageRequest(hostRid(RID), 5, 0x7000, 0, 2, 3, true);
    m.endpoint.answer();
    expect(m.rig.vm.usage().pageRequests.used).toBe(1);
    const mend = m.refuse('respond', E.IO);
    m.g.submit(...ANSWER);
    expect([m.told(), m.endpoint.responses, m.rig.vm.usage().pageRequests.used]).toEqual([IQE, [], 1]);
    return { ...m, mend };
  }

  test('reaches the function when the guest has it executed again', () => {
    const m = asked();
    m.mend();
    m.g.w32(PAGE.FSTS.at, IQE);
    expect([m.endpoint.responses.length, m.rig.vm.usage().pageRequests.used]).toEqual([1, 0]);
  });

  test('reaches it behind a later wait when the guest goes on, and no wait fails for it', () => {
    const m = asked();
    m.skip(7);
    expect([m.told(), m.status(), m.endpoint.responses]).toEqual([0, 7, []]);
    m.mend();
    m.g.submit(0x25n | (8n << 32n), BigInt(STATUS));
    expect([m.status(), m.endpoint.responses.length, m.rig.vm.usage().pageRequests.used]).toEqual([8, 1, 0]);
    m.calls.length = 0;
    m.g.submit(0x25n | (9n << 32n), BigInt(STATUS));
    expect(m.calls).toEqual([]);
  });
});
