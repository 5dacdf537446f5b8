import { describe, expect, test } from 'vitest';
import { HWPT_FLAG } from '../../../src/spec/iommufd/uapi.ts';
import { bench, identity, ok } from './bench.ts';

const ENOMEM = -12;
const EBUSY = -16;
const EINVAL = -22;
const ENOSPC = -28;
const EOPNOTSUPP = -95;

const TRANSLATE = 0xbn;

function stand() {
  const b = bench();
  const dev = b.device('nic', [8]);
  const parent = b.parent(dev);
  const vsmmu = b.viommu(dev, parent, new Map([[0x88, dev]]));
  return { ...b, dev, parent, vsmmu };
}

describe('domains of the kernel itself', () => {
  // Flags, what they give with both stages, with stage 1 only, with stage 2 only.
  const { NEST_PARENT: N, DIRTY_TRACKING: D, PASID: P } = HWPT_FLAG;
  test.each([
    [0, 1, 1, 2],
    [N, 2, EOPNOTSUPP, EOPNOTSUPP],
    [D, 1, 1, EOPNOTSUPP],
    [P, 1, 1, EOPNOTSUPP],
    [D | P, 1, 1, EOPNOTSUPP],
    [N | D, EOPNOTSUPP, EOPNOTSUPP, EOPNOTSUPP],
    [N | P, EOPNOTSUPP, EOPNOTSUPP, EOPNOTSUPP],
    [16, EOPNOTSUPP, EOPNOTSUPP, EOPNOTSUPP],
  ])('HWPT_ALLOC flags %i', (flags, both, only1, only2) => {
    const kind = (id: ReturnType<typeof identity>) => {
      const b = bench({ identity: id });
      const r = b.driver.allocPaging(b.device('nic', [8]), flags, null);
      return typeof r === 'number' ? r : r.pasidCapable ? 1 : 2;
    };
    expect([kind(identity()), kind(identity([0, 3, 2])), kind(identity([0, 3, 1]))]).toEqual([both, only1, only2]);
  });

  test('user data is EOPNOTSUPP', () => {
    const { driver, dev } = stand();
    const user = { length: 8, copyIn: () => true, copyOut: () => true };
    expect(driver.allocPaging(dev, 0, { type: 1, user })).toBe(EOPNOTSUPP);
  });

  test('VMIDs begin at 1, are reused, and end with ENOSPC; 8-bit hardware has 255', () => {
    const b = bench({ identity: identity([0, 1 << 18, 0]) });
    const dev = b.device('nic', [8]);
    const all = Array.from({ length: 255 }, () => b.parent(dev));
    expect(b.driver.allocPaging(dev, HWPT_FLAG.NEST_PARENT, null)).toBe(ENOSPC);
    b.attach(dev, all[254]!);
    expect(b.ste(8)[4]).toBe(255);
    all[3]!.free();
    b.attach(dev, b.parent(dev));
    expect(b.ste(8)[4]).toBe(4);
  });

  test('no memory is ENOMEM, takes no VMID, and leaves nothing behind', () => {
    const b = bench({ pages: 6 });
    const dev = b.device('nic', [8]);
    const used = b.memory.pagesUsed;
    b.parent(dev);
    expect(b.driver.allocPaging(dev, HWPT_FLAG.NEST_PARENT, null)).toBe(ENOMEM);
    expect(b.memory.pagesUsed).toBe(used + 1);
  });

  test('an ordinary one is a stage 1 of the kernel behind a context descriptor', () => {
    const { driver, dev, attach, ste, memory } = stand();
    const own = ok(driver.allocPaging(dev, 0, null));
    expect(own.map(0x1000n, 0x8000_0000, 0x1000, 7)).toBe(0);
    expect(attach(dev, own)).toBe(0);
    const s = ste(8);
    expect(s[0]! & 0xf).toBe(0xb);
    const cd = (s[0]! & ~0x3f) + (s[1]! & 0xf_ffff) * 2 ** 32;
    memory.space.load64(cd);
    // T0SZ 16, walks write-back and shared, no TTB1, valid; ASID 1.
    expect(memory.space.lo).toBe(16 | (1 << 8) | (1 << 10) | (3 << 12) | (1 << 30) | (1 << 31));
    expect(memory.space.hi >>> 16).toBe(1);
  });

  test('moving a RID between stage 1, stage 2 and nested leaves no context descriptor behind', () => {
    const { driver, dev, attach, parent, vsmmu, ste, memory } = stand();
    attach(dev, ok(driver.allocPaging(dev, 0, null)));
    const s = ste(8);
    const cd = (s[0]! & ~0x3f) + (s[1]! & 0xf_ffff) * 2 ** 32;
    attach(dev, parent);
    expect(ste(8)[0]).toBe(0xd);
    memory.space.load64(cd);
    expect(memory.space.lo).toBe(0);
    attach(dev, ok(vsmmu.nested(TRANSLATE, 0n)));
    expect(ste(8)[0]).toBe(0xf);
    attach(dev, ok(driver.allocPaging(dev, 0, null)));
    memory.space.load64(cd);
    expect(memory.space.lo).not.toBe(0);
    attach(dev, ok(vsmmu.nested(TRANSLATE, 0n)));
    memory.space.load64(cd);
    expect(memory.space.lo).toBe(0);
  });
});

describe('PASIDs of the host', () => {
  function pasidStand() {
    const b = bench({ identity: identity([1, 0x7c0, 16 << 6], [0, 1 << 19, 1 << 19]) });
    const dev = b.device('accelerator', [8], { pasidBits: 16 });
    const domain = () => ok(b.driver.allocPaging(dev, HWPT_FLAG.PASID, null));
    return { ...b, dev, domain };
  }
  const contextPtr = (s: readonly number[]) => (s[0]! & ~0x3f) + (s[1]! & 0xf_ffff) * 2 ** 32;

  test('live in the kernel table while the RID stays blocked: S1DSS terminates it', () => {
    const { dev, domain, ste } = pasidStand();
    expect(dev.group.setPasid(domain(), 3000, false)).toBe(0);
    const s = ste(8);
    expect(s[0]! & 0x3f).toBe(0xb | (2 << 4));
    expect(s[1]! >>> 27).toBe(16);
    expect(s[2]! & 3).toBe(0);
    dev.group.clearPasid(3000);
    expect(ste(8)).toEqual([1, ...Array(15).fill(0)]);
  });

  test('need a RID that is blocked or on a stage 1 of the kernel', () => {
    const { dev, domain, attach, parent } = pasidStand();
    attach(dev, parent(dev));
    expect(dev.group.setPasid(domain(), 1, false)).toBe(EINVAL);
    attach(dev, domain());
    expect(dev.group.setPasid(domain(), 1, false)).toBe(0);
    expect(attach(dev, parent(dev))).toBe(EBUSY);
  });

  test('stop at the width of device and SMMU', () => {
    const { dev, domain } = pasidStand();
    expect(domain().attach(dev, 0x1_0000, null)).toBe(EINVAL);
    const stage2 = pasidStand();
    expect(stage2.parent(stage2.dev).attach(stage2.dev, 1, null)).toBe(EOPNOTSUPP);
  });

  test('are invalidated with their own SubstreamID when their tables change', () => {
    const { dev, domain, hw, memory, ste } = pasidStand();
    const d = domain();
    d.map(0x1000n, 0x8000_0000, 0x3000, 7);
    dev.group.setPasid(d, 7, false);
    hw.take();
    expect(d.unmap(0x1000n, 0x3000n)).toBe(0x3000n);
    const commands = hw.take().filter((s) => s.what === 'command');
    expect(commands.map((s) => s.command)).toMatchObject([
      { op: 'TLBI_NH_VA', address: 0x1000n, num: 2, scale: 0 },
      { op: 'ATC_INV', sid: 8, ssid: 7, address: 0n, size: 2 },
    ]);
    memory.space.load64(contextPtr(ste(8)));
    expect(memory.space.lo & 1).toBe(1);
  });

  test('ask for ATS with the first and give it back with the last', () => {
    const { dev, domain, hw } = pasidStand();
    const d = domain();
    dev.group.setPasid(d, 1, false);
    dev.group.setPasid(d, 2, false);
    dev.group.clearPasid(1);
    dev.group.clearPasid(2);
    const ats = hw.take().filter((s) => s.what === 'ats');
    expect(ats.map((s) => s.on)).toEqual([true, false]);
  });
});
