import { expect, test } from 'vitest';
import type { Said } from '../../src/ports/tell.ts';
import type { TraceHeader } from '../../src/trace/index.ts';
import { Guest } from '../../tools/explain/guest.ts';
import { HostObjects } from '../../tools/explain/objects.ts';
import { explainSmmuv3 } from '../../tools/explain/smmuv3.ts';
import { explainVtd } from '../../tools/explain/vtd.ts';
import { FakeTarget, RAM } from '../trace/fake-target.ts';

function header(iommu: TraceHeader['iommu'], size: number): TraceHeader {
  return {
    iommu,
    cmdline: '',
    guestKernel: 'Linux',
    scenario: '',
    commands: null,
    mmio: { base: 0, size },
    ram: [{ gpa: RAM, size: 0x10_0000 }],
    devices: [{ name: 'nvme', sid: 3, bdf: '', driver: null, domainType: null, ats: false }],
  };
}

/** A guest that stores 64-bit words. */
class Driver {
  readonly target = new FakeTarget(() => {});
  readonly guest = new Guest(this.target);

  put(gpa: number, ...words: bigint[]): this {
    for (const [n, w] of words.entries()) this.target.store(gpa + 8 * n, 8, Number(w & 0xffff_ffffn), Number(w >> 32n));
    return this;
  }

  set(offset: number, value: number): this {
    this.target.write(offset, 4, value);
    return this;
  }
}

const at = (n: number) => BigInt(RAM + n);

test('an SMMUv3 guest: registers, streams, contexts and the ranges of its tables, in words', () => {
  const d = new Driver()
    .set(0x20, 5)
    .set(0x80, RAM + 0x4000)
    .set(0x88, 4)
    .put(RAM + 0x4000 + 64, 1n | (4n << 1n)) // stream 1: bypass
    .put(RAM + 0x4000 + 128, 1n) // stream 2: abort
    .put(RAM + 0x4000 + 192, at(0x5000) | 1n | (5n << 1n)) // stream 3: stage 1
    .put(RAM + 0x5000, 25n | (1n << 30n) | (1n << 31n) | (4n << 32n) | (1n << 45n) | (7n << 48n), at(0x6000))
    .put(RAM + 0x6000 + 8, at(0x7000) | 3n)
    .put(RAM + 0x7000, at(0x8000) | 3n)
    .put(RAM + 0x8000 + 16, at(0x20000) | 3n, at(0x21000) | 3n, at(0x30000) | 0x83n);

  expect(explainSmmuv3(d.guest, header('smmuv3', 0x2_0000), 8)).toEqual([
    'Registers (those that are not zero)',
    '  CR0              0x5  SMMUEN EVENTQEN',
    '  STRTAB_BASE      0x40004000',
    '  STRTAB_BASE_CFG  0x4  LOG2SIZE=4',
    '',
    'Stream table',
    '  stream 0x1: bypass',
    '  stream 0x2: abort',
    '  stream 0x3 (nvme): stage 1, entry at 0x400040c0',
    '    context at 0x40005000: ASID 7, 44-bit output, faults recorded',
    '    TTB0 0x40006000: 39-bit input, 4 KiB granule',
    '      0x40002000..0x40003fff -> 0x40020000 rw',
    '      0x40004000..0x40004fff -> 0x40030000 r',
  ]);
});

test('a table that leads back to itself ends', () => {
  const d = new Driver()
    .set(0x20, 1)
    .set(0x80, RAM + 0x4000)
    .put(RAM + 0x4000, at(0x5000) | 1n | (5n << 1n));
  d.put(RAM + 0x5000, 16n | (1n << 30n) | (1n << 31n) | (4n << 32n), at(0x6000));
  for (let n = 0; n < 512; n++) d.put(RAM + 0x6000 + 8 * n, at(0x6000) | 3n);
  expect(explainSmmuv3(d.guest, header('smmuv3', 0x2_0000), 8).length).toBeLessThan(40);
});

test('a VT-d guest in legacy mode: requesters, domains, ranges and interrupt entries', () => {
  const d = new Driver()
    .set(0x1c, 0x8000_0000 | 0)
    .set(0x20, RAM + 0x4000)
    .set(0xb8, (RAM + 0xa000) | 1)
    .put(RAM + 0x4000, at(0x5000) | 1n)
    .put(RAM + 0x5000 + 48, at(0x6000) | 1n, 1n | (9n << 8n)) // devfn 3: three levels
    .put(RAM + 0x5000 + 64, 1n | (2n << 2n), 2n | (4n << 8n)) // devfn 4: pass-through
    .put(RAM + 0x6000 + 8, at(0x7000) | 3n)
    .put(RAM + 0x7000, at(0x0) | 0x81n)
    .put(RAM + 0xa000 + 16, 1n | (0x30n << 16n) | (5n << 40n), 0x300n);

  expect(explainVtd(d.guest, header('vtd', 0x1000), 8)).toEqual([
    'Registers (those that are not zero)',
    '  GSTS             0x80000000  TES',
    '  RTADDR           0x40004000',
    '  IRTA             0x4000a001  S',
    '',
    'Requesters',
    '  requester 0x3 (nvme)',
    '    domain 9, translated',
    '    second stage at 0x40006000, 3 levels',
    '      0x40000000..0x401fffff -> 0x40000000 r',
    '  requester 0x4',
    '    domain 4, pass-through',
    '',
    'Interrupt remapping',
    '  1: vector 0x30 to APIC 5, source 0x300',
  ]);
});

test('the host objects are a tree, put together from what the host says', () => {
  const objects = new HostObjects();
  const host = (verb: string, args: Extract<Said, { what: 'host' }>['args'], result = 0) =>
    objects.tell({ what: 'host', verb, args, result });
  host('IOAS_ALLOC', { id: 1 });
  host('BIND', { device: '40:00.0', dev: 2 });
  host('HWPT_ALLOC', { flags: 1, dev: 2, pt: 1, type: 0, fault: 0, hwpt: 3 });
  host('VIOMMU_ALLOC', { type: 1, dev: 2, hwpt: 3, id: 4 });
  host('VDEVICE_ALLOC', { viommu: 4, dev: 2, virtId: 256n, id: 5 });
  host('HWPT_ALLOC', { flags: 0, dev: 2, pt: 4, type: 2, fault: 0, hwpt: 6 });
  host('ATTACH', { dev: 2, pt: 6, pasid: -1 });
  host('HWPT_ALLOC', { flags: 0, dev: 2, pt: 4, type: 2, fault: 0, hwpt: 0 }, -5);
  host('HWPT_ALLOC', { flags: 0, dev: 2, pt: 4, type: 2, fault: 0, hwpt: 7, data: 0x449e_600bn });
  host('REPLACE', { dev: 2, pt: 7, pasid: -1 });
  host('DESTROY', { id: 6 });

  expect(objects.lines()).toEqual([
    'Host objects',
    '  1: address space (IOAS)',
    '    3: host tables (HWPT), can be nested on',
    '      4: virtual IOMMU (vIOMMU)',
    '        5: stream 0x100 is device 40:00.0 (vDEVICE)',
    "        7: the guest's stream entry: stage 1, contexts at 0x449e6000 (HWPT), attached: 40:00.0",
    '',
    'Host operations so far',
    '  ATTACH               1',
    '  BIND                 1',
    '  DESTROY              1',
    '  HWPT_ALLOC           4',
    '  IOAS_ALLOC           1',
    '  REPLACE              1',
    '  VDEVICE_ALLOC        1',
    '  VIOMMU_ALLOC         1',
  ]);
});
