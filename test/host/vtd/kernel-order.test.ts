import { describe, expect, test } from 'vitest';
import type { Invalidation, NestedDomain } from '../../../src/host/kernel/driver.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import type { UpcallHandlers } from '../../../src/ports/upcalls.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { HWPT_FLAG } from '../../../src/spec/iommufd/uapi.ts';
import { CAP_ALL, ECAP_ALL } from '../../piommu/vtd/rig.ts';
import { Bench, firstStageData } from './bench.ts';

const ALL = '7ffffffffffff000 S';
const words = (...q: bigint[]): Int32Array =>
  Int32Array.from(q.flatMap((v) => [Number(BigInt.asIntN(32, v)), Number(BigInt.asIntN(32, v >> 32n))]));

describe('teardown: P, PASID cache, translations, device TLB, entry, page-request drain', () => {
  test('by kind of domain', () => {
    const b = new Bench();
    const dev = b.device('nic', [0x10]);
    const parent = b.parent(dev);
    const first = b.parent(dev, 0);
    const order = (attach: () => void, pasid: number = NO_PASID): string[] => {
      attach();
      b.take();
      b.detach(dev, pasid);
      return b.take();
    };
    expect(order(() => b.attach(dev, first))).toEqual(['pasid-cache pasid', 'p-iotlb 0', `device ${ALL}`]);
    expect(order(() => b.attach(dev, parent))).toEqual(['pasid-cache pasid', 'iotlb domain', `device ${ALL}`]);
    const nested = b.nested(dev, parent, firstStageData(0x1_0000n));
    expect(order(() => b.attach(dev, nested, 7), 7)).toEqual([
      'pasid-cache pasid',
      'iotlb domain',
      `p-device 7 ${ALL}`,
    ]);
    nested.iopf = true;
    expect(order(() => b.attach(dev, nested, 7), 7).slice(3)).toEqual([
      'wait',
      'p-iotlb 7',
      `p-device 7 ${ALL}`,
      'wait',
    ]);
  });

  test('without ATS no device-TLB descriptor; setting up needs none unless the unit caches absent entries', () => {
    const b = new Bench();
    const dev = b.device('nic', [0x10], { ats: false });
    const domain = b.parent(dev);
    b.take();
    b.attach(dev, domain);
    expect(b.take()).toEqual([]);
    b.detach(dev);
    expect(b.take()).toEqual(['pasid-cache pasid', 'iotlb domain']);
    const caching = new Bench({ hardware: { cap: CAP_ALL | 0x80n } });
    const other = caching.device('nic', [0x10]);
    const first = caching.parent(other, 0);
    caching.take();
    caching.attach(other, first);
    expect(caching.take()).toEqual(['pasid-cache pasid', 'p-iotlb 0']);
  });

  test('ATS and PRI are on from the start, and off when the device goes', () => {
    const b = new Bench();
    const dev = b.device('nic', [0x10, 0x11]);
    expect(b.switched).toEqual(['nic ats true', 'nic pri true']);
    const used = b.memory.pagesUsed;
    const domain = b.parent(dev);
    b.attach(dev, domain);
    expect([b.dma(0n, 0x10), b.dma(0n, 0x11)]).toEqual([0, 0]);
    b.take();
    b.detach(dev);
    expect(b.take()).toEqual(['pasid-cache pasid', 'iotlb domain', `device ${ALL}`, `device ${ALL}`]);
    domain.free();
    b.kernel.removeDevice(dev);
    expect(b.switched.slice(2)).toEqual(['nic pri false', 'nic ats false']);
    expect(b.memory.pagesUsed).toBeLessThan(used);
    expect(b.dma(0n, 0x10)).toBe(-0x41);
    const poor = new Bench({ hardware: { ecap: ECAP_ALL & ~4n } });
    poor.device('nic', [0x10]);
    expect(poor.switched).toEqual([]);
  });
});

describe('invalidation of a nested domain', () => {
  function nested() {
    const b = new Bench();
    const dev = b.device('nic', [0x10]);
    const parent = b.parent(dev);
    b.guestMap(0x1_0000, 0x7000n, 0x5000n);
    const domain: NestedDomain = b.nested(dev, parent, firstStageData(0x1_0000n));
    b.attach(dev, domain);
    b.attach(dev, domain, 5);
    b.dma(0x7000n, 0x10);
    b.dma(0x7000n, 0x10, 5);
    b.guestMap(0x1_0000, 0x7000n, 0x6000n);
    b.take();
    return { b, dev, parent, inv: domain.invalidation as Invalidation };
  }

  test('a page: both PASIDs and their device TLBs, in one batch; without it the old translation stays', () => {
    const { b, inv } = nested();
    expect([b.dma(0x7000n, 0x10), b.dma(0x7000n, 0x10, 5)]).toEqual([0x5000, 0x5000]);
    expect(inv.run(words(0x7000n, 1n, 1n), 0, 1)).toBe(0);
    expect(b.take()).toEqual(['p-iotlb page 7 2^0', 'p-iotlb page 7 2^0', 'device 7000', 'p-device 5 7000']);
    expect([b.dma(0x7000n, 0x10), b.dma(0x7000n, 0x10, 5)]).toEqual([0x6000, 0x6000]);
  });

  test('ranges become the power of two that covers them; everything is everything', () => {
    const { b, inv } = nested();
    const of = (addr: bigint, pages: bigint): string[] => {
      expect(inv.run(words(addr, pages, 0n), 0, 1)).toBe(0);
      return b.take().filter((_, i) => i % 2 === 0);
    };
    expect(of(0x3000n, 2n)).toEqual(['p-iotlb page 0 2^3', 'device 3000 S']);
    expect(of(0x20_0000n, 512n)).toEqual(['p-iotlb page 512 2^9', 'device 2ff000 S']);
    expect(of(0x7fff_ffff_f000n, 2n)).toEqual([
      'p-iotlb page 0 2^36',
      'device 7fffffff000 S'.replace('7fffffff000', '7ffffffff000'),
    ]);
    expect(of(0n, 0xffff_ffff_ffff_ffffn)).toEqual(['p-iotlb 0', `device ${ALL}`]);
    expect(of(0n, 1n << 52n)).toEqual(['p-iotlb 0', `device ${ALL}`]);
  });

  test('errors stop at the entry and tell how many were done', () => {
    const { b, inv } = nested();
    const good = [0x7000n, 1n, 0n];
    const bad: [bigint[], number][] = [
      [[0x7001n, 1n, 0n], -E.INVAL],
      [[0x7000n, 0xffff_ffff_ffff_ffffn, 0n], -E.INVAL],
      [[0x7000n, 1n, 2n], -E.OPNOTSUPP],
      [[0x7000n, 1n, 1n << 32n], -E.OPNOTSUPP],
    ];
    for (const [entry, errno] of bad) {
      expect(inv.run(words(...good, ...good, ...entry, ...good), 0, 4)).toBe(errno);
      expect(inv.done).toBe(2);
      // What came before is done all the same.
      expect(b.take().length).toBe(8);
    }
    expect(inv.run(words(), 0, 0)).toBe(0);
    expect([inv.type, inv.entryBytes, inv.copy]).toEqual([0, 24, 'each']);
  });

  test('a change of the parent drops what the nested domain holds of those pages, and all of its device TLBs', () => {
    const { b, parent } = nested();
    b.functions.invalidations.length = 0;
    expect(b.dma(0x7000n, 0x10)).toBe(0x5000);
    parent.unmap(0n, 0x40_0000n);
    expect(b.take()).toEqual(['iotlb page 2^10', `device ${ALL}`, `p-device 5 ${ALL}`]);
    expect(b.dma(0x7000n, 0x10)).toBe(-0x79);
    expect(parent.map(0n, b.hpa, 0x40_0000, 3)).toBe(0);
    expect(b.dma(0x7000n, 0x10)).toBe(0x6000);
  });

  test('nobody below: nothing to do', () => {
    const b = new Bench();
    const dev = b.device('nic', [0x10]);
    const domain = b.nested(dev, b.parent(dev), firstStageData(0n));
    b.take();
    expect(domain.invalidation?.run(words(0n, 1n, 0n), 0, 1)).toBe(0);
    expect(b.take()).toEqual([]);
  });
});

describe('upcalls', () => {
  function served(upcalls = true) {
    const b = new Bench({ upcalls });
    const dev = b.device('nic', [0x10]);
    const heard: unknown[][] = [];
    const handlers: UpcallHandlers = {
      onStreamMiss: (_, stream, pasid) => heard.push(['miss', stream, pasid]) < 0,
      onFault: (_, stream, record) => heard.push(['fault', stream, record[3]! & 0xff]),
      onStageTwoMiss: (_d, _s, pasid, ipa, access) => heard.push(['second', pasid, ipa, access]) < 0,
      onPageRequest: (_, __, record) => heard.push(['page', record[2]! >>> 0]) > 0,
      onInvalidateError: (_, error) => heard.push(['error', error]),
      onDrained: () => heard.push(['drained']),
    };
    b.hub.listen([dev], handlers);
    return { b, dev, heard, handlers };
  }

  test('first use and faults reach the listener; under linux-only they end in the host log', () => {
    const { b, heard } = served();
    expect(b.dma(0x1000n, 0x10)).toBe(-0x59);
    expect(heard).toEqual([
      ['miss', 0, NO_PASID],
      ['fault', 0, 0x59],
    ]);
    const linux = served(false);
    expect(linux.b.dma(0x1000n, 0x10)).toBe(-0x59);
    expect(linux.heard).toEqual([]);
    expect(linux.b.driver.faultLog.length).toBe(1);
  });

  test('a shadow is asked for its pages, its nested domain as well; other domains are not', () => {
    const { b, dev, heard } = served();
    const shadow = b.paging(dev, HWPT_FLAG.NEST_PARENT);
    b.attach(dev, shadow);
    expect(b.dma(0x1000n, 0x10, NO_PASID, 2)).toBe(-0x79);
    expect(heard).toEqual([['fault', 0, 0x79]]);
    b.hub.shadow(shadow, true);
    b.dma(0x1000n, 0x10, NO_PASID, 2);
    expect(heard[1]).toEqual(['second', NO_PASID, 0x1000, 2]);
    b.attach(dev, b.nested(dev, shadow, firstStageData(0x9000n)), 5);
    heard.length = 0;
    b.dma(0x1000n, 0x10, 5);
    expect(heard[0]).toEqual(['second', 5, 0x9000, 1]);
  });

  test('a function that does not answer is an error for its device, and the other descriptors are still done', () => {
    const { b, dev, heard } = served();
    const domain = b.parent(dev, 0);
    b.attach(dev, domain);
    b.dma(0n, 0x10);
    b.functions.answers = 'never';
    domain.unmap(0n, 0x40_0000n);
    expect(heard).toEqual([['error', HW_ERROR.ATC_TIMEOUT]]);
    expect(b.dma(0n, 0x10)).toBe(-0x71);
  });

  test('late completions hold the listener until they are in', () => {
    const { b, dev, heard, handlers } = served();
    const domain = b.parent(dev, 0);
    b.attach(dev, domain);
    b.functions.answers = 'later';
    domain.unmap(0n, 0x40_0000n);
    expect(b.hub.outstanding(handlers)).toBe(1);
    b.hw.invalidateCompletion(0x10, 1, 1);
    expect([b.hub.outstanding(handlers), heard]).toEqual([0, [['drained']]]);
    domain.map(0n, b.hpa, 4096, 3);
    domain.unmap(0n, 4096n);
    b.clock.advance(61e9);
    expect(heard.slice(1)).toEqual([['error', HW_ERROR.ATC_TIMEOUT], ['drained']]);
  });

  test("a guest's own device-TLB invalidation", () => {
    const { b, dev } = served();
    b.take();
    expect(b.driver.invalidateDeviceTlb(dev, NO_PASID, 0x3800, 0, false)).toBe(0);
    expect(b.driver.invalidateDeviceTlb(dev, 5, 0x7000, 0, false)).toBe(0);
    expect(b.take()).toEqual(['device 3000 S', 'p-device 5 7000']);
    const plain = b.device('plain', [0x20], { ats: false });
    expect(b.driver.invalidateDeviceTlb(plain, NO_PASID, 0, 0, false)).toBe(-E.OPNOTSUPP);
  });
});

describe('page requests', () => {
  const request = (b: Bench, pasid: number, access: number, group: number, last: boolean, hi = 0) =>
    b.hw.pageRequest(0x10, pasid, 0x7000, hi, access, group, last);

  function paging(iopf: boolean) {
    const b = new Bench();
    const dev = b.device('nic', [0x10]);
    const domain = b.parent(dev, 0);
    domain.iopf = iopf;
    expect(b.attach(dev, domain, 5)).toBe(0);
    return { b, dev, domain };
  }

  test('bad ones are answered invalid when they are the last; stop markers never', () => {
    const { b, dev, domain } = paging(true);
    b.attach(dev, domain);
    const bad: [number, number, number][] = [
      [NO_PASID, 1, 0],
      [5, 1 | 8, 0],
      [5, 1 | 4, 0],
      [5, 1, 0x4000_0000],
    ];
    for (const [i, [pasid, access, hi]] of bad.entries()) {
      request(b, pasid, access, i, false, hi);
      request(b, pasid, access, i, true, hi);
    }
    expect(b.functions.responses).toEqual([
      [0x10, NO_PASID, 0, 1],
      [0x10, 5, 1, 1],
      [0x10, 5, 2, 1],
      [0x10, 5, 3, 1],
    ]);
    request(b, 5, 0, 9, true);
    expect(b.functions.responses.length).toBe(4);
  });

  test('without a handler they are answered invalid; a listener of upcalls may take them instead', () => {
    const { b, dev } = paging(false);
    request(b, 5, 1, 3, true);
    expect(b.functions.responses).toEqual([[0x10, 5, 3, 1]]);
    b.hub.listen([dev], { onPageRequest: () => true });
    request(b, 5, 1, 4, true);
    expect(b.functions.responses.length).toBe(1);
    expect(b.driver.respond(dev, 5, 4, 0, false)).toBe(0);
    expect(b.functions.responses[1]).toEqual([0x10, 5, 4, 0]);
    expect(b.driver.respond(dev, 5, 4, 0, false)).toBe(-E.INVAL);
    expect(b.driver.respond(dev, 5, 4, 0, true)).toBe(-E.INVAL);
  });

  test('fault delivery needs PRI: ENODEV without', () => {
    const b = new Bench();
    const dev = b.device('nic', [0x10], { pri: false });
    const domain = b.parent(dev, 0);
    domain.iopf = true;
    expect([b.attach(dev, domain, 5), b.attach(dev, domain)]).toEqual([-E.NODEV, -E.NODEV]);
  });
});
