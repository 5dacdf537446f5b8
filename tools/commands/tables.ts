import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ViommuError } from '../../src/core/errors.ts';
import { dtb, dts, pcieNode, smmuv3Node } from '../../src/machine/firmware/devicetree.ts';
import { dmar } from '../../src/machine/firmware/dmar.ts';
import { iort, rootComplexMap } from '../../src/machine/firmware/iort.ts';
import { mcfg } from '../../src/machine/firmware/mcfg.ts';
import { Q35 } from '../../src/machine/q35.ts';
import { VIRT } from '../../src/machine/virt.ts';
import { atLeast, oneOf } from '../cli/parser.ts';
import { type Command, EXIT, usageError } from '../cli/verb.ts';

interface Values {
  readonly output?: string;
  readonly base?: number;
  readonly ecam?: number;
  readonly buses?: number;
  readonly awBits?: '39' | '48';
  readonly ats?: boolean;
  readonly interruptRemapping?: boolean;
}

interface Machine {
  readonly base: number;
  readonly ecam: number;
  readonly buses: number;
  readonly ats: boolean;
}

/** QEMU's SPIs of the SMMU of `-M virt`: event queue, page requests, command sync, global errors. */
const SPI = { event: 74, pri: 75, sync: 76, gerror: 77 } as const;
/** Interrupt numbers of the GIC begin with 32 that belong to one processor each. */
const FIRST_SPI = 32;
const IOMMU = 1;
const Q35_ECAM = 0xb000_0000;

function smmuv3(m: Machine): Record<string, Uint8Array | string> {
  const gsi = (line: keyof typeof SPI): number => SPI[line] + FIRST_SPI;
  const gsiv = { event: gsi('event'), pri: gsi('pri'), sync: gsi('sync'), gerror: gsi('gerror') };
  const map = rootComplexMap(true, [{ first: 0, count: m.buses << 8, to: 0 }]);
  const tree = {
    name: '',
    properties: { '#address-cells': [2], '#size-cells': [2] },
    children: [
      smmuv3Node({ base: m.base, phandle: IOMMU, spi: SPI }),
      pcieNode({
        ecam: m.ecam,
        buses: m.buses,
        mmio32: { base: VIRT.PCI, bytes: VIRT.PCI_BYTES },
        mmio64: { base: VIRT.PCI64, bytes: VIRT.PCI64_BYTES },
        iommuMap: [{ first: 0, phandle: IOMMU, iommuBase: 0, count: m.buses << 8 }],
        ats: m.ats,
      }),
    ],
  };
  return {
    'iort.aml': iort({ its: true, smmus: [{ base: m.base, gsiv }], map, ats: m.ats }),
    'smmuv3.dts': dts(tree),
    'smmuv3.dtb': dtb(tree),
  };
}

function vtd(m: Machine, hostAddressWidth: number, interruptRemapping: boolean): Record<string, Uint8Array> {
  const unit = { kind: 'drhd', base: m.base, includeAll: true, scopes: [] } as const;
  const ats = m.ats ? [{ kind: 'atsr', allPorts: true, scopes: [] } as const] : [];
  return { 'dmar.aml': dmar({ hostAddressWidth, interruptRemapping, structures: [unit, ...ats] }) };
}

function address(text: string): number {
  const n = Number(text);
  if (!/^(0x[0-9a-f]+|\d+)$/i.test(text) || n >= 2 ** 52 || n % 4096 !== 0)
    throw usageError(`expected an address that is a multiple of 0x1000, found "${text}"`);
  return n;
}

/** `viommu tables`. */
export const tablesCommand: Command = {
  name: 'tables',
  summary: 'firmware tables (IORT, DMAR, MCFG, device tree) that tell a guest of a vIOMMU',
  about: `Writes what tells a guest where its IOMMU and its PCIe configuration space are: IORT and a device tree for smmuv3, DMAR for vtd,
MCFG for both. All PCI functions are behind the one IOMMU; addresses are those of QEMU's boards unless given. A machine with
several IOMMUs or exceptions takes the builders of viommu/machine.`,
  examples: ['viommu tables vtd --base 0xfed90000 --output firmware', 'iasl -d firmware/dmar.aml'],
  declare(parser) {
    const kind = parser.createArgument('<iommu>', 'smmuv3 or vtd');
    kind.argChoices = ['smmuv3', 'vtd'];
    parser
      .addArgument(kind)
      .option('--output <folder>', 'where to write (default: here)')
      .option('--base <address>', 'of the register window', address)
      .option('--ecam <address>', 'of the configuration space: 1 MiB for each bus', address)
      .option('--buses <n>', 'default 256', atLeast(1))
      .option('--ats', 'functions may use ATS')
      .addOption(oneOf('--aw-bits <n>', "vtd: bits of the guest's address width, 39 or 48 (default)", ['39', '48']))
      .option('--interrupt-remapping', 'vtd: interrupts can be remapped');
  },
  async run([kind], values: Values, io) {
    if (kind !== 'smmuv3' && kind !== 'vtd') throw usageError(`expected smmuv3 or vtd, found "${kind}"`);
    const { output = '.', buses = 256, ats = false } = values;
    if (buses > 256) throw usageError(`--buses: at most 256, found ${buses}`);
    const arm = kind === 'smmuv3';
    const base = values.base ?? (arm ? VIRT.SMMU : Q35.VTD);
    const ecam = values.ecam ?? (arm ? VIRT.ECAM : Q35_ECAM);
    const m = { base, ecam, buses, ats };
    const files = {
      ...(arm ? smmuv3(m) : vtd(m, Number(values.awBits ?? 48), values.interruptRemapping ?? false)),
      'mcfg.aml': mcfg([{ base: ecam, firstBus: 0, lastBus: buses - 1 }]),
    };
    for (const [name, content] of Object.entries(files)) {
      const path = join(output, name);
      try {
        if (!existsSync(output)) mkdirSync(output);
        writeFileSync(path, content);
      } catch (e) {
        throw new ViommuError(
          'EIO',
          'caller',
          `${path}: cannot be written: ${e instanceof Error ? e.message : e}`,
          {},
          e,
        );
      }
      if (io.json) io.out(JSON.stringify({ file: path, bytes: content.length }));
      else io.note(`${path}: ${content.length} bytes`);
    }
    return EXIT.OK;
  },
};
