import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { readDtb } from '../../src/machine/firmware/fdt-reader.ts';
import { run } from './program.ts';

const folder = mkdtempSync(join(tmpdir(), 'viommu-tables-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The tables of these options, as a guest's firmware code reads them: signature, length, sum. */
function tables(...args: string[]): Map<string, Buffer> {
  const out = join(folder, `t${args.join('')}`);
  const { status, err } = run(['tables', '--quiet', ...args, '--output', out]);
  expect([status, err]).toEqual([0, '']);
  const found = readdirSync(out).map((f) => [f, readFileSync(join(out, f))] as const);
  for (const [name, bytes] of found) {
    if (!name.endsWith('.aml')) continue;
    expect(bytes.toString('latin1', 0, 4)).toBe(name.slice(0, 4).toUpperCase());
    expect(bytes.readUInt32LE(4)).toBe(bytes.length);
    expect(bytes.reduce((sum, b) => sum + b, 0) & 0xff).toBe(0);
  }
  return new Map(found);
}

describe('viommu tables', () => {
  test('vtd: DMAR says where the unit is and how wide addresses are, MCFG where buses are', () => {
    const t = tables('vtd', '--base', '0xfed91000', '--aw-bits', '39', '--interrupt-remapping', '--ecam', '0xe0000000');
    expect([...t.keys()].toSorted()).toEqual(['dmar.aml', 'mcfg.aml']);
    const dmar = t.get('dmar.aml')!;
    expect([dmar[36], dmar[37]]).toEqual([38, 1]);
    expect(dmar.readBigUInt64LE(48 + 8)).toBe(0xfed9_1000n);
    const mcfg = t.get('mcfg.aml')!;
    expect([mcfg.readBigUInt64LE(44), mcfg[54], mcfg[55]]).toEqual([0xe000_0000n, 0, 255]);
  });

  test('smmuv3: the device tree sends every function of the buses through the SMMU', () => {
    const t = tables('smmuv3', '--buses', '16', '--ats');
    expect([...t.keys()].toSorted()).toEqual(['iort.aml', 'mcfg.aml', 'smmuv3.dtb', 'smmuv3.dts']);
    const root = readDtb(t.get('smmuv3.dtb')!);
    expect(root.children?.map((c) => c.name)).toEqual(['iommu@9050000', 'pcie@4010000000']);
    expect(t.get('smmuv3.dts')!.toString()).toContain('iommu-map = <0x0 0x1 0x0 0x1000>');
    expect(t.get('iort.aml')!.includes(Buffer.from([0, 0, 5, 9, 0, 0, 0, 0]))).toBe(true);
  });

  test.each([
    [['riscv'], /expected smmuv3 or vtd, found "riscv"/],
    [['vtd', '--base', '12'], /multiple of 0x1000/],
    [['vtd', '--buses', '300'], /at most 256/],
    [['vtd', '--output', '/proc/none'], /cannot be written/],
    [[], /expected smmuv3 or vtd/],
  ])('%j is refused', (args, why) => {
    const { status, err } = run(['tables', ...args]);
    expect(status).toBe(2);
    expect(err).toMatch(why);
  });
});
