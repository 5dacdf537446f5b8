import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { DMAR_SCOPE, type DmarScope, dmar } from '../../../src/machine/firmware/dmar.ts';
import { type IortIdMap, type IortSmmuv3, iort, rootComplexMap } from '../../../src/machine/firmware/iort.ts';
import { mcfg } from '../../../src/machine/firmware/mcfg.ts';
import type { Maker } from '../../../src/machine/firmware/table.ts';

/** What the reference tables carry in their header; the bytes must then be equal, checksum included. */
const QEMU: Maker = { oemId: 'BOCHS ', oemTableId: 'BXPC', oemRevision: 1, creatorId: 'BXPC', creatorRevision: 1 };
const reference = (name: string) => readFileSync(new URL(`../../../guest-fixtures/acpi/${name}.aml`, import.meta.url));

const wired = (base: number, event: number, gerror: number, sync: number): IortSmmuv3 => ({
  base,
  gsiv: { event, pri: event + 1, gerror, sync },
});
const VIRT = wired(0x0905_0000, 0x6a, 0x6d, 0x6c);
const bus = (first: number, to: number | 'its'): IortIdMap => ({ first: first << 8, count: 0x100, to });

test.each([
  ['virt-none', true, [], [bus(0, 'its')]],
  ['virt-smmuv3', true, [{ ...VIRT, identifier: 0 }], [bus(0, 0)]],
  ['virt-smmuv3-no-its', false, [VIRT], [bus(0, 0)]],
  ['virt-smmuv3-pxb-bypass', true, [{ ...VIRT, identifier: 0 }], [bus(0, 0), bus(0x10, 0), bus(0x20, 'its')]],
  [
    'virt-two-smmuv3',
    true,
    [wired(0x0c00_0000, 0x90, 0x93, 0x92), wired(0x0c02_0000, 0x94, 0x97, 0x96)],
    [bus(0, 0), bus(0x10, 1)],
  ],
] as const)('the IORT of %s is the reference byte for byte', (name, its, smmus, behind) => {
  const table = iort({ its, smmus, map: rootComplexMap(its, behind), maker: QEMU });

  expect(Buffer.from(table)).toEqual(reference(`${name}-IORT`));
});

test('the MCFG of virt is the reference byte for byte', () => {
  expect(Buffer.from(mcfg([{ base: 0x40_1000_0000, firstBus: 0, lastBus: 255 }], QEMU))).toEqual(
    reference('virt-MCFG'),
  );
});

const at = (device: number, fn: number, type: number = DMAR_SCOPE.ENDPOINT): DmarScope => ({
  type,
  bus: 0,
  path: [{ device, fn }],
});
const IOAPIC: DmarScope = { type: DMAR_SCOPE.IOAPIC, id: 0, bus: 0xff, path: [{ device: 0, fn: 0 }] };
const CHIPSET = [at(0x1f, 0), at(0x1f, 2), at(0x1f, 3)];

test.each([
  ['q35-vtd-legacy', [at(0, 0), at(1, 0), at(2, 0)], false],
  ['q35-vtd-intremap-devicetlb', [at(0, 0), at(1, 0)], true],
  ['q35-vtd-scalable-rootport', [at(0, 0), at(1, 0), at(2, 0, DMAR_SCOPE.BRIDGE), at(3, 0)], true],
] as const)('the DMAR of %s is the reference byte for byte', (name, functions, atsr) => {
  const table = dmar({
    hostAddressWidth: 48,
    interruptRemapping: true,
    structures: [
      { kind: 'drhd', base: 0xfed9_0000, scopes: [IOAPIC, ...functions, ...CHIPSET] },
      ...(atsr ? [{ kind: 'atsr', allPorts: true, scopes: [] } as const] : []),
    ],
    maker: QEMU,
  });

  expect(Buffer.from(table)).toEqual(reference(`${name}-DMAR`));
});

test('every table sums to zero, whatever it holds', () => {
  const tables = [
    iort({
      its: true,
      smmus: [VIRT],
      map: [],
      rmrs: [{ smmu: 0, first: 0, count: 0x100, ranges: [{ base: 0x0800_0000, bytes: 0x10_0000 }] }],
    }),
    dmar({
      hostAddressWidth: 39,
      interruptRemapping: false,
      structures: [
        { kind: 'rmrr', base: 0x7f00_0000, limit: 0x7f0f_ffff, scopes: [at(2, 0)] },
        { kind: 'satc', required: true, scopes: [at(3, 0)] },
        { kind: 'andd', device: 1, name: '\\_SB.DEV0' },
      ],
    }),
  ];
  for (const t of tables) expect(t.reduce((sum, b) => sum + b, 0) & 0xff).toBe(0);
});

test('a mapping to an SMMU that is not there names it', () => {
  expect(() => iort({ its: true, smmus: [], map: [bus(0, 3)] })).toThrow(/SMMU 3/);
  expect(() => iort({ its: false, smmus: [VIRT], map: [bus(1, 'its')] })).toThrow(/an ITS/);
});
