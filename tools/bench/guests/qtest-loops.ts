import { TESTDEV } from '../../../devices/endpoints/iommu-testdev.ts';
import { OP } from '../../../src/spec/smmuv3/commands.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { INV } from '../../../src/spec/vtd/invalidation.ts';
import { GCMD, PAGE } from '../../../src/spec/vtd/registers.ts';

/** A guest as lines of qtest: what it writes once, and a doorbell that makes the IOMMU go through the whole ring. */
export interface Loop {
  readonly name: string;
  readonly arch: 'aarch64' | 'x86_64';
  readonly args: readonly string[];
  readonly begin: readonly string[];
  /** The function behind the IOMMU writes to a page, which is then cached; and what is read afterwards. */
  readonly access: readonly string[];
  /** The last answers to `access` when the function could write and the page holds what it wrote. */
  readonly accessed: readonly string[];
  /** The n-th doorbell. */
  ring(n: number): string;
  /** Reads how far the IOMMU has come. */
  readonly consumed: string;
  /** What that says after the n-th doorbell. */
  index(n: number): number;
  /** Commands behind one doorbell. */
  readonly commands: number;
}

const hex = (n: number) => `0x${n.toString(16)}`;

/** Little-endian words. */
function bytes(words: readonly number[]): string {
  return words
    .map((w) =>
      (w >>> 0)
        .toString(16)
        .padStart(8, '0')
        .replace(/(..)(..)(..)(..)/, '$4$3$2$1'),
    )
    .join('');
}

/** A ring of the same entry over and over, the last of each 64 another one. */
function ring(at: number, count: number, entry: readonly number[], last: readonly number[]): string {
  const group = [...Array.from({ length: 63 }, () => bytes(entry)), bytes(last)].join('');
  const text = group.repeat(count / 64);
  return `write ${hex(at)} ${hex(text.length / 2)} 0x${text}`;
}

/** Where the function is: alone at slot 1. */
const DEVFN = 1 << 3;
const TESTDEV_ARGS = ['-device', 'iommu-testdev,addr=1'];
/** What the guest maps, and what its commands name. */
const IOVA = 0x5000;
const ASID = 0x11;
const DID = 5;

/** Four levels of tables from `root` on, a page each, that map `IOVA` to the page `leaf` says. */
function tables(root: number, leaf: number): string[] {
  const levels = [0, 1, 2].map((level) => `writeq ${hex(root + level * 4096)} ${hex(root + (level + 1) * 4096 + 3)}`);
  return [...levels, `writeq ${hex(root + 3 * 4096 + 8 * (IOVA / 4096))} ${hex(leaf)}`];
}

/** The function, whose BAR is at `bar`, writes four bytes to `IOVA`, which arrive at `target`. */
function access(bar: number, target: number): Pick<Loop, 'access' | 'accessed'> {
  const write = (at: number, value: number) => `writel ${hex(bar + at)} ${hex(value)}`;
  return {
    access: [
      `writel ${hex(target)} 0x0`,
      write(TESTDEV.IOVA_LOW, IOVA),
      write(TESTDEV.IOVA_HIGH, 0),
      write(TESTDEV.GPA_LOW, target),
      write(TESTDEV.GPA_HIGH, 0),
      write(TESTDEV.LEN, 4),
      write(TESTDEV.ATTRS, 2),
      write(TESTDEV.DOORBELL, 1),
      `readl ${hex(bar + TESTDEV.TRIGGER)}`,
      `readl ${hex(bar + TESTDEV.RESULT)}`,
      `readl ${hex(target)}`,
    ],
    accessed: ['OK 0x0000000000000000', 'OK 0x0000000012345678'],
  };
}

const SMMU = 0x0905_0000;
const SMMU_STRTAB = 0x4200_0000;
const SMMU_CD = 0x4201_0000;
const SMMU_TABLES = 0x4300_0000;
const SMMU_TARGET = 0x4400_0000;
/** Configuration space of the function, and where its BAR goes. */
const VIRT_CONFIG = 0x40_1000_0000 + DEVFN * 4096;
const VIRT_BAR = 0x1000_0000;
const SMMU_RING = 0x4100_0000;
/** As many commands as one access may cost here, whatever they are. */
const SMMU_LOG2 = 6;

function smmuv3(name: string, entry: readonly number[]): Loop {
  const write = (at: number, value: number) => `writel ${hex(SMMU + at)} ${hex(value)}`;
  const count = 2 ** SMMU_LOG2;
  const index = (n: number) => (n * count) % (2 * count);
  return {
    name: `SMMUv3 ${name}`,
    arch: 'aarch64',
    args: ['-machine', 'virt,iommu=smmuv3', '-nodefaults', '-m', '256', ...TESTDEV_ARGS],
    begin: [
      `writel ${hex(VIRT_CONFIG + 0x10)} ${hex(VIRT_BAR)}`,
      `writew ${hex(VIRT_CONFIG + 4)} 0x6`,
      // Stage 1 alone. T0SZ 16, 4 KiB pages, EPD1, V | IPS 2, AA64, R, A, ASID.
      `writeq ${hex(SMMU_STRTAB + 64 * DEVFN)} ${hex(SMMU_CD + 0xb)}`,
      `writel ${hex(SMMU_CD)} 0xc0000010`,
      `writel ${hex(SMMU_CD + 4)} ${hex((ASID << 16) | 0x6204)}`,
      `writeq ${hex(SMMU_CD + 8)} ${hex(SMMU_TABLES)}`,
      ...tables(SMMU_TABLES, SMMU_TARGET + 0x743),
      ring(SMMU_RING, count, entry, [OP.SYNC, 0, 0, 0]),
      `writeq ${hex(SMMU + PAGE0.CMDQ_BASE.at)} ${hex(SMMU_RING + SMMU_LOG2)}`,
      `writeq ${hex(SMMU + PAGE0.STRTAB_BASE.at)} ${hex(SMMU_STRTAB)}`,
      write(PAGE0.STRTAB_BASE_CFG.at, 8),
      write(PAGE0.CR0.at, 0x9),
    ],
    ...access(VIRT_BAR, SMMU_TARGET),
    // As many entries as the ring has: PROD and CONS are at the same slot of different laps.
    ring: (n) => write(PAGE0.CMDQ_PROD.at, index(n)),
    consumed: `readl ${hex(SMMU + PAGE0.CMDQ_CONS.at)}`,
    index,
    commands: count,
  };
}

const VTD = 0xfed9_0000;
const VTD_RING = 0x100_0000;
/** The smallest ring there is, and the commands of one doorbell. */
const VTD_QS = 0;
const VTD_COMMANDS = 64;
const VTD_ROOT = 0x30_0000;
const VTD_CONTEXTS = 0x30_1000;
const VTD_TABLES = 0x31_0000;
const VTD_TARGET = 0x400_0000;
const Q35_BAR = 0xe000_0000;
/** The function's configuration space through ports 0xcf8 and 0xcfc. */
const Q35_CONFIG = 0x8000_0000 + DEVFN * 256;

function vtd(name: string, entry: readonly number[]): Loop {
  const write = (at: number, value: number) => `writel ${hex(VTD + at)} ${hex(value)}`;
  const count = 2 ** (VTD_QS + 8);
  const index = (n: number) => ((n * VTD_COMMANDS) % count) * 16;
  return {
    name: `VT-d ${name}`,
    arch: 'x86_64',
    args: ['-machine', 'q35', '-nodefaults', '-m', '256', '-device', 'intel-iommu', ...TESTDEV_ARGS],
    begin: [
      `outl 0xcf8 ${hex(Q35_CONFIG + 0x10)}`,
      `outl 0xcfc ${hex(Q35_BAR)}`,
      `outl 0xcf8 ${hex(Q35_CONFIG + 4)}`,
      'outw 0xcfc 0x6',
      `writeq ${hex(VTD_ROOT)} ${hex(VTD_CONTEXTS + 1)}`,
      // Legacy mode, translated, 48 bits.
      `writeq ${hex(VTD_CONTEXTS + 16 * DEVFN)} ${hex(VTD_TABLES + 1)}`,
      `writeq ${hex(VTD_CONTEXTS + 16 * DEVFN + 8)} ${hex((DID << 8) | 2)}`,
      ...tables(VTD_TABLES, VTD_TARGET + 3),
      ring(VTD_RING, count, entry, [INV.WAIT | 0x20, 1, 0x20_0000, 0]),
      `writeq ${hex(VTD + PAGE.IQA.at)} ${hex(VTD_RING + VTD_QS)}`,
      `writeq ${hex(VTD + PAGE.RTADDR.at)} ${hex(VTD_ROOT)}`,
      write(PAGE.GCMD.at, GCMD.QIE),
      write(PAGE.GCMD.at, (GCMD.QIE | GCMD.SRTP) >>> 0),
      write(PAGE.GCMD.at, (GCMD.QIE | GCMD.TE) >>> 0),
    ],
    ...access(Q35_BAR, VTD_TARGET),
    ring: (n) => write(PAGE.IQT.at, index(n)),
    consumed: `readl ${hex(VTD + PAGE.IQH.at)}`,
    index,
    commands: VTD_COMMANDS,
  };
}

/** What both programs run: commands about the stream, the address space and the page that are in use. */
export const LOOPS: readonly Loop[] = [
  smmuv3('SYNC', [OP.SYNC, 0, 0, 0]),
  smmuv3('TLBI_NH_VA', [OP.TLBI_NH_VA, ASID << 16, IOVA, 0]),
  smmuv3('TLBI_NH_ASID', [OP.TLBI_NH_ASID, ASID << 16, 0, 0]),
  smmuv3('CFGI_STE', [OP.CFGI_STE, DEVFN, 1, 0]),
  smmuv3('CFGI_CD', [OP.CFGI_CD, DEVFN, 1, 0]),
  vtd('wait', [INV.WAIT | 0x20, 1, 0x20_0000, 0]),
  vtd('IOTLB page', [INV.IOTLB | (3 << 4) | (DID << 16), 0, IOVA, 0]),
  vtd('IOTLB domain', [INV.IOTLB | (2 << 4) | (DID << 16), 0, 0, 0]),
  vtd('context, device', [INV.CONTEXT | (3 << 4) | (DID << 16), DEVFN, 0, 0]),
];
