/**
 * Disassembles and recompiles the firmware tables with the distribution's own tools: iasl must decode every table without a
 * warning (RMR nodes need iasl 20221020 or newer), dtc must read our blob and our source and agree that they are the same tree.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type DtNode, dtb, dts, pcieNode, smmuv3Node } from '../../src/machine/firmware/devicetree.ts';
import { DMAR_SCOPE, dmar } from '../../src/machine/firmware/dmar.ts';
import { iort, rootComplexMap } from '../../src/machine/firmware/iort.ts';
import { mcfg } from '../../src/machine/firmware/mcfg.ts';
import { dsdt, fadt, madt } from '../../src/machine/firmware/pc.ts';

const endpoint = { type: DMAR_SCOPE.ENDPOINT, bus: 0, path: [{ device: 2, fn: 0 }] };
/** The FADT as a loader leaves it: with addresses of FACS and DSDT, which iasl insists on. */
function linked(table: Uint8Array): Uint8Array {
  for (const at of [36, 40]) new DataView(table.buffer).setUint32(at, 0x1000, true);
  table[9] = 0;
  table[9] = -table.reduce((sum, b) => sum + b, 0) & 0xff;
  return table;
}

const TABLES: Readonly<Record<string, Uint8Array>> = {
  IORT: iort({
    its: true,
    smmus: [{ base: 0x0905_0000, gsiv: { event: 0x6a, pri: 0x6b, gerror: 0x6d, sync: 0x6c } }],
    map: rootComplexMap(true, [{ first: 0, count: 0x100, to: 0 }]),
    ats: true,
    rmrs: [{ smmu: 0, first: 0, count: 0x100, ranges: [{ base: 0x0800_0000, bytes: 0x10_0000 }] }],
  }),
  DMAR: dmar({
    hostAddressWidth: 48,
    interruptRemapping: true,
    structures: [
      { kind: 'drhd', base: 0xfed9_0000, includeAll: true, scopes: [] },
      { kind: 'rmrr', base: 0x7f00_0000, limit: 0x7f0f_ffff, scopes: [endpoint] },
      { kind: 'atsr', allPorts: true, scopes: [] },
      { kind: 'satc', required: true, scopes: [endpoint] },
      { kind: 'andd', device: 1, name: '\\_SB.DEV0' },
    ],
  }),
  FACP: linked(fadt({ sci: 9, pm1aEvent: 0xb000, pm1aControl: 0xb004, pmTimer: 0xb008, gpe0: 0xafe0 })),
  APIC: madt(),
  DSDT: dsdt({
    mmio: { base: 0xc000_0000, last: 0xfebf_ffff },
    lastBus: 15,
    intx: [{ device: 0x10, gsi: [11, 10, 10, 11] }],
    reserved: [
      { base: 0xb000_0000, bytes: 0x100_0000 },
      { base: 0xfed9_0000, bytes: 0x1000 },
    ],
  }),
  MCFG: mcfg([{ base: 0x40_1000_0000, firstBus: 0, lastBus: 255 }]),
};

const TREE: DtNode = {
  name: '',
  properties: { '#address-cells': [2], '#size-cells': [2], compatible: 'linux,dummy-virt' },
  children: [
    smmuv3Node({ base: 0x5e00_0000, phandle: 1, spi: { event: 96, pri: 97, sync: 98, gerror: 99 } }),
    pcieNode({
      ecam: 0x5e10_0000,
      buses: 1,
      mmio32: { base: 0x5f00_0000, bytes: 0x100_0000 },
      mmio64: { base: 0x80_0000_0000, bytes: 0x80_0000_0000 },
      iommuMap: [{ first: 0, phandle: 1, iommuBase: 0, count: 0x1_0000 }],
      ats: true,
    }),
  ],
};

function run(tool: string, args: string[], cwd: string, need: string): string {
  try {
    return execFileSync(tool, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (e) {
    const err = e as NodeJS.ErrnoException & { stderr?: string; stdout?: string };
    if (err.code === 'ENOENT') throw new Error(`${tool} is missing: apt-get install ${need}`);
    throw new Error(`${tool} ${args.join(' ')} failed:\n${err.stdout ?? ''}${err.stderr ?? ''}`);
  }
}

function main(): number {
  const dir = mkdtempSync(join(tmpdir(), 'viommu-firmware-'));
  let failed = 0;
  const check = (name: string, ok: boolean, why: string) => {
    process.stdout.write(`${ok ? 'ok  ' : 'FAIL'} ${name}${ok ? '' : `: ${why}`}\n`);
    if (!ok) failed++;
  };
  try {
    for (const [name, bytes] of Object.entries(TABLES)) {
      writeFileSync(join(dir, `${name}.aml`), bytes);
      run('iasl', ['-d', `${name}.aml`], dir, 'acpica-tools');
      const text = readFileSync(join(dir, `${name}.dsl`), 'utf8');
      const bad = text.split('\n').filter((l) => /invalid|unknown|incorrect|error|\*\*\*\*/i.test(l));
      check(`iasl decodes ${name}`, bad.length === 0, bad.join('; '));
      run('iasl', ['-p', `${name}-again`, `${name}.dsl`], dir, 'acpica-tools');
      const again = readFileSync(join(dir, `${name}-again.aml`));
      // The compiler writes its own creator id; everything behind the header is the table's meaning.
      check(`iasl compiles ${name} back`, again.subarray(36).equals(Buffer.from(bytes).subarray(36)), 'bodies differ');
    }
    writeFileSync(join(dir, 'tree.dtb'), dtb(TREE));
    writeFileSync(join(dir, 'tree.dts'), dts(TREE));
    const fromBlob = run('dtc', ['-I', 'dtb', '-O', 'dts', '-s', '-q', 'tree.dtb'], dir, 'device-tree-compiler');
    run('dtc', ['-I', 'dts', '-O', 'dtb', '-q', '-o', 'source.dtb', 'tree.dts'], dir, 'device-tree-compiler');
    const fromText = run('dtc', ['-I', 'dtb', '-O', 'dts', '-s', '-q', 'source.dtb'], dir, 'device-tree-compiler');
    check('dtc reads blob and source as one tree', fromBlob === fromText, 'trees differ');
    return failed === 0 ? 0 : 1;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

try {
  process.exitCode = main();
} catch (e) {
  process.stderr.write(`${(e as Error).message}\n`);
  process.exitCode = 1;
}
