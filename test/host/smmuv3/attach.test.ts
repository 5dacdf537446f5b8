import { describe, expect, test } from 'vitest';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { HWPT_FLAG } from '../../../src/spec/iommufd/uapi.ts';
import { bench, identity, ok, type Seen, Vsmmu } from './bench.ts';

const ENOENT = -2;
const EBUSY = -16;
const EINVAL = -22;
const ERANGE = -34;
const EOPNOTSUPP = -95;

const TRANSLATE = 0xbn;
const BYPASS = 0x9n;
const ABORT = 0x1n;
const EATS = 1n << 28n;

function stand(options: Parameters<typeof bench>[0] = {}) {
  const b = bench(options);
  const dev = b.device('nic', [8]);
  const parent = b.parent(dev);
  const vsmmu = b.viommu(dev, parent, new Map([[0x88, dev]]));
  b.hw.take();
  return { ...b, dev, parent, vsmmu };
}

/** Stores to the entry, commands, syncs and the function's ATS switch, in order. */
function story(seen: readonly Seen[]): string {
  return seen
    .map((s) => {
      if (s.what === 'store') return 'ste';
      if (s.what === 'ats') return s.on ? 'ATS+' : 'ATS-';
      return s.what === 'sync' ? '|' : s.command.op;
    })
    .join(' ')
    .replaceAll(/(ste )+/g, 'ste ');
}

describe('who may attach a nested domain', () => {
  test('a translating one without a vDEVICE is ENOENT; bypass and abort need none', () => {
    const { vsmmu, dev, attach } = stand();
    vsmmu.names.clear();
    expect(attach(dev, ok(vsmmu.nested(TRANSLATE, 0n)))).toBe(ENOENT);
    expect(attach(dev, ok(vsmmu.nested(BYPASS, 0n)))).toBe(0);
    expect(attach(dev, ok(vsmmu.nested(ABORT, 0n)))).toBe(0);
  });

  test('on another SMMU it is EINVAL', () => {
    const { vsmmu } = stand();
    const other = bench();
    expect(other.attach(other.device('elsewhere', [8]), ok(vsmmu.nested(BYPASS, 0n)))).toBe(EINVAL);
  });

  test('a device whose PASIDs the host uses is EBUSY, and comes free with the last one', () => {
    const b = bench({ identity: identity([1, 0x7c0, 16 << 6]) });
    const dev = b.device('nic', [8], { pasidBits: 16 });
    const vsmmu = b.viommu(dev, b.parent(dev), new Map([[0x88, dev]]));
    const own = ok(b.driver.allocPaging(dev, HWPT_FLAG.PASID, null));
    expect(dev.group.setPasid(own, 5, false)).toBe(0);
    expect(b.attach(dev, ok(vsmmu.nested(BYPASS, 0n)))).toBe(EBUSY);
    dev.group.clearPasid(5);
    expect(b.attach(dev, ok(vsmmu.nested(BYPASS, 0n)))).toBe(0);
  });

  test('a PASID never: that is the guest table', () => {
    const { vsmmu, dev } = stand();
    const d = ok(vsmmu.nested(TRANSLATE, 0n));
    expect(d.pasidCapable).toBe(false);
    expect(d.attach(dev, 5, null)).toBe(EOPNOTSUPP);
  });

  test('a refused one leaves the old attachment in force', () => {
    const { vsmmu, dev, attach, ste, hw } = stand();
    attach(dev, ok(vsmmu.nested(BYPASS, 0n)));
    const before = ste(8);
    vsmmu.names.clear();
    hw.take();
    expect(attach(dev, ok(vsmmu.nested(TRANSLATE, 0n)))).toBe(ENOENT);
    expect(ste(8)).toEqual(before);
    expect(hw.take()).toEqual([]);
  });
});

describe('a group of two functions that cannot be told apart', () => {
  function group() {
    const b = bench();
    const one = b.device('one', [8], { group: 'bridge' });
    const two = b.device('two', [9], { group: 'bridge' });
    const vsmmu = b.viommu(one, b.parent(one), new Map([[0x88, one]]));
    return { ...b, one, two, vsmmu };
  }

  test('needs a vDEVICE of each for a translating domain; without, all are where they were', () => {
    const { vsmmu, one, two, attach, ste } = group();
    attach(one, ok(vsmmu.nested(BYPASS, 0n)));
    const before = [ste(8), ste(9)];
    expect(before[0]).toEqual(before[1]);
    expect(attach(one, ok(vsmmu.nested(TRANSLATE, EATS)))).toBe(ENOENT);
    expect([ste(8), ste(9)]).toEqual(before);
    vsmmu.names.set(0x99, two);
    expect(attach(two, ok(vsmmu.nested(TRANSLATE, EATS)))).toBe(0);
    expect([ste(8)[0]! & 0xf, ste(9)[0]! & 0xf]).toEqual([0xf, 0xf]);
  });

  test('is invalidated as two streams, each under its own name', () => {
    const { vsmmu, one, two, attach, hw } = group();
    vsmmu.names.set(0x99, two);
    attach(one, ok(vsmmu.nested(TRANSLATE, EATS)));
    hw.take();
    vsmmu.run([0x40, 0x88, 52, 0], [0x40, 0x99, 52, 0]);
    const sids = hw.take().flatMap((s) => (s.what === 'command' ? [s.words[1]] : []));
    expect(sids).toEqual([8, 9]);
  });
});

describe('the function and its ATS', () => {
  test('EATS on: entry first, then nothing stale, then the function may ask', () => {
    const { vsmmu, dev, attach, hw } = stand();
    attach(dev, ok(vsmmu.nested(TRANSLATE, 0n)));
    expect(story(hw.take())).toBe('ste CFGI_STE | ste CFGI_STE |');
    attach(dev, ok(vsmmu.nested(TRANSLATE, EATS)));
    expect(story(hw.take())).toBe('ste CFGI_STE | ATC_INV | ATS+');
  });

  test('EATS off: the function is off before the entry refuses it', () => {
    const { vsmmu, dev, attach, hw } = stand();
    attach(dev, ok(vsmmu.nested(TRANSLATE, EATS)));
    hw.take();
    attach(dev, ok(vsmmu.nested(TRANSLATE, 0n)));
    expect(story(hw.take())).toBe('ATS- ste CFGI_STE | ATC_INV |');
  });

  test('EATS unchanged: what the function holds is dropped after the entry changed', () => {
    const { vsmmu, dev, attach, hw } = stand();
    attach(dev, ok(vsmmu.nested(TRANSLATE, EATS)));
    hw.take();
    attach(dev, ok(vsmmu.nested(TRANSLATE | 0x4000n, EATS)));
    expect(story(hw.take())).toBe('ste CFGI_STE | ATC_INV |');
  });

  test('toggling EATS toggles the physical enable each time', () => {
    const { vsmmu, dev, attach, hw } = stand();
    for (let i = 0; i < 6; i++) attach(dev, ok(vsmmu.nested(TRANSLATE, i % 2 === 0 ? EATS : 0n)));
    const ats = hw.take().filter((s) => s.what === 'ats');
    expect(ats.map((s) => s.on)).toEqual([true, false, true, false, true, false]);
  });

  test('a detached function has ATS off before its entry goes', () => {
    const { vsmmu, dev, attach, detach, hw } = stand();
    attach(dev, ok(vsmmu.nested(TRANSLATE, EATS)));
    hw.take();
    detach(dev);
    expect(story(hw.take())).toMatch(/^ATS- ste CFGI_STE \| (ste CFGI_STE \| )*ATC_INV \|/);
  });

  test('an SMMU without ATS never switches it on', () => {
    const { vsmmu, dev, attach, hw, ste } = stand({ identity: identity([0, 1 << 10, 0]) });
    attach(dev, ok(vsmmu.nested(TRANSLATE, EATS)));
    expect(hw.take().some((s) => s.what === 'ats')).toBe(false);
    expect(ste(8)[2]! & (3 << 28)).toBe(0);
  });
});

describe('a function with PASIDs', () => {
  test('is asked to forget those too, whenever it must forget everything', () => {
    const b = bench({ identity: identity([1, 0x7c0, 16 << 6]) });
    const dev = b.device('accelerator', [8], { pasidBits: 16 });
    const parent = b.parent(dev);
    const vsmmu = b.viommu(dev, parent, new Map([[0x88, dev]]));
    const whole = () =>
      b.hw.take().flatMap((s) => (s.what === 'command' && s.command.op === 'ATC_INV' ? [s.command] : []));
    b.hw.take();
    b.attach(dev, ok(vsmmu.nested(TRANSLATE, EATS)));
    const both = [
      { sid: 8, ssid: null, global: false, size: 52 },
      { sid: 8, ssid: 0, global: true, size: 52 },
    ];
    expect(whole()).toMatchObject(both);
    parent.map(0x4000_0000n, 0x100_4000_0000, 0x1000, 7);
    parent.unmap(0x4000_0000n, 0x1000n);
    expect(whole()).toMatchObject(both);
  });
});

describe('a stream nobody is attached to', () => {
  test('aborts, as Linux blocks it, while no device model listens', () => {
    const { ste, device } = bench();
    device('nic', [8]);
    expect(ste(8)).toEqual([1, ...Array(15).fill(0)]);
    // Streams without a device abort too.
    expect(ste(9)).toEqual([1, ...Array(15).fill(0)]);
  });

  test('is invalid while one listens, so that the hardware asks; and aborts again when it stops', () => {
    const { hub, dev, ste, vsmmu, attach, detach } = stand();
    const stop = hub.listen([dev], {});
    expect(ste(8)[0]).toBe(0);
    attach(dev, ok(vsmmu.nested(BYPASS, 0n)));
    detach(dev);
    expect(ste(8)[0]).toBe(0);
    stop();
    expect(ste(8)[0]).toBe(1);
  });

  test('is not touched by a listener that comes while something is attached', () => {
    const { hub, dev, ste, vsmmu, attach } = stand();
    attach(dev, ok(vsmmu.nested(BYPASS, 0n)));
    const before = ste(8);
    hub.listen([dev], {})();
    expect(ste(8)).toEqual(before);
  });
});

describe('the stream table', () => {
  test('is two-level where the SMMU has it: 256 entries behind a Span of 9', () => {
    const { driver, memory, device } = bench();
    device('far', [0x1234]);
    const { base, config } = driver.streamTable;
    expect(config).toBe(16 | (8 << 6) | (1 << 16));
    memory.space.load64(base + 8 * 0x12);
    expect(memory.space.lo & 0x1f).toBe(9);
    memory.space.load64(base + 8 * 0x13);
    expect(memory.space.lo).toBe(0);
  });

  test('is linear where it has not, and every entry aborts', () => {
    const { driver, memory } = bench({ identity: identity([0, 3 << 27, 0], [1, 0x3f, 6]) });
    const { base, config } = driver.streamTable;
    expect(config).toBe(6);
    for (let sid = 0; sid < 64; sid++) {
      memory.space.load64(base + 64 * sid);
      expect(memory.space.lo).toBe(1);
    }
  });

  test('has no room for a stream beyond SIDSIZE', () => {
    const { driver, kernel } = bench();
    expect(() => kernel.addDevice({ name: 'x', streams: [0x1_0000], iommu: driver })).toThrow(
      `errno=0x${(-ERANGE).toString(16)}`,
    );
  });

  test('lets go of a device that leaves: its entry aborts', () => {
    const { kernel, dev, ste, vsmmu, attach, detach } = stand();
    attach(dev, ok(vsmmu.nested(BYPASS, 0n)));
    detach(dev);
    kernel.removeDevice(dev);
    expect(ste(8)).toEqual([1, ...Array(15).fill(0)]);
  });
});

describe('a vIOMMU', () => {
  test.each([
    ['both stages and a snooping root complex', identity(), true, true],
    ['forced write-back instead of the root complex', identity([3, 1 << 8, 1 << 8]), false, true],
    ['neither', identity(), false, false],
    ['stage 1 only', identity([0, 3, 2]), true, false],
    ['stage 2 only', identity([0, 3, 1]), true, false],
    ['an MMU-600 r1', { ...identity(), iidr: 0x4831_043b }, true, false],
    ['an MMU-600 r2', { ...identity(), iidr: 0x4832_043b }, true, true],
  ])('with %s: %#', (_, id, canWriteBackSnoop, possible) => {
    const { driver, device } = bench({ identity: id, canWriteBackSnoop });
    const dev = device('nic', [8]);
    expect(driver.viommuSupported(dev, 1)).toBe(possible);
    for (const type of [0, 2, 3, 0xffff_ffff]) expect(driver.viommuSupported(dev, type)).toBe(false);
  });

  test('needs a parent of its own SMMU', () => {
    const a = bench();
    const b = bench();
    const dev = a.device('nic', [8]);
    const foreign = b.parent(b.device('nic', [8]));
    const services = new Vsmmu(a.driver, dev, a.parent(dev), new Map());
    expect(a.driver.viommuInit(dev, 1, foreign, null, services)).toBe(EINVAL);
  });
});

describe('GET_HW_INFO', () => {
  test('is the registers of the machine, raw, behind two zero words', () => {
    const { driver, dev } = stand();
    const info = driver.hwInfo(dev, 0)!;
    expect(info.type).toBe(2);
    expect([...new Uint32Array(info.data.buffer)]).toEqual([
      0, 0, 0x0d44_141b, 0x0273_0010, 0, 0x1414, 0, 0x74, 0x43b, 1,
    ]);
    expect(driver.hwInfo(dev, 2)).toEqual(info);
    for (const type of [1, 3, 4, 99]) expect(driver.hwInfo(dev, type)).toBeNull();
  });
});

test('the doorbell window is where the machine says, and where Linux says without', () => {
  const { driver, dev } = stand();
  expect(driver.reservedRegions(dev)).toEqual([{ start: 0x800_0000n, last: 0x80f_ffffn, kind: 'sw-msi' }]);
  const b = bench({ swMsi: { start: 0x0809_0000, bytes: 0x1_0000 } });
  expect(b.driver.reservedRegions(b.device('nic', [8]))).toEqual([
    { start: 0x0809_0000n, last: 0x0809_ffffn, kind: 'sw-msi' },
  ]);
});

test('the whole life of a device leaves no page and no VMID behind', () => {
  const b = bench();
  const { device, driver, kernel, memory, attach, detach, parent } = b;
  const first = device('warm', [8]);
  const used = memory.pagesUsed;
  for (let i = 0; i < 50; i++) {
    const dev = device(`nic${i}`, [16 + i]);
    const p = parent(dev);
    const vsmmu = b.viommu(dev, p, new Map([[1, dev]]));
    p.map(0x4000_0000n, 0x100_4000_0000, 0x30_1000, 7);
    attach(dev, ok(vsmmu.nested(TRANSLATE, EATS)));
    attach(dev, ok(driver.allocPaging(dev, 0, null)));
    const own = dev.attached(NO_PASID)!;
    detach(dev);
    own.free();
    vsmmu.driver.destroy();
    p.free();
    kernel.removeDevice(dev);
  }
  expect(memory.pagesUsed).toBe(used);
  attach(first, parent(first));
  expect(b.ste(8)[4]).toBe(1);
});
