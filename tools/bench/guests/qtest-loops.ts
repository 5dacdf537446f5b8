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

const SMMU = 0x0905_0000;
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
    args: ['-machine', 'virt,iommu=smmuv3', '-nodefaults', '-m', '256'],
    begin: [
      ring(SMMU_RING, count, entry, [OP.SYNC, 0, 0, 0]),
      `writeq ${hex(SMMU + PAGE0.CMDQ_BASE.at)} ${hex(SMMU_RING + SMMU_LOG2)}`,
      `writeq ${hex(SMMU + PAGE0.STRTAB_BASE.at)} 0x42000000`,
      write(PAGE0.STRTAB_BASE_CFG.at, 8),
      write(PAGE0.CR0.at, 0x9),
    ],
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

function vtd(name: string, entry: readonly number[]): Loop {
  const write = (at: number, value: number) => `writel ${hex(VTD + at)} ${hex(value)}`;
  const count = 2 ** (VTD_QS + 8);
  const index = (n: number) => ((n * VTD_COMMANDS) % count) * 16;
  return {
    name: `VT-d ${name}`,
    arch: 'x86_64',
    args: ['-machine', 'q35', '-nodefaults', '-m', '256', '-device', 'intel-iommu'],
    begin: [
      ring(VTD_RING, count, entry, [INV.WAIT | 0x20, 1, 0x20_0000, 0]),
      `writeq ${hex(VTD + PAGE.IQA.at)} ${hex(VTD_RING + VTD_QS)}`,
      `writeq ${hex(VTD + PAGE.RTADDR.at)} 0x300000`,
      write(PAGE.GCMD.at, GCMD.QIE),
      write(PAGE.GCMD.at, (GCMD.QIE | GCMD.SRTP) >>> 0),
      write(PAGE.GCMD.at, (GCMD.QIE | GCMD.TE) >>> 0),
    ],
    ring: (n) => write(PAGE.IQT.at, index(n)),
    consumed: `readl ${hex(VTD + PAGE.IQH.at)}`,
    index,
    commands: VTD_COMMANDS,
  };
}

/** What both programs run. */
export const LOOPS: readonly Loop[] = [
  smmuv3('SYNC', [OP.SYNC, 0, 0, 0]),
  smmuv3('TLBI_NH_VA', [OP.TLBI_NH_VA, 0x11_0000, 0x5000, 0]),
  smmuv3('TLBI_NH_ASID', [OP.TLBI_NH_ASID, 0x11_0000, 0, 0]),
  smmuv3('CFGI_STE', [OP.CFGI_STE, 8, 1, 0]),
  smmuv3('CFGI_CD', [OP.CFGI_CD, 8, 1, 0]),
  vtd('wait', [INV.WAIT | 0x20, 1, 0x20_0000, 0]),
  vtd('IOTLB page', [INV.IOTLB | (3 << 4) | (5 << 16), 0, 0x5000, 0]),
  vtd('IOTLB domain', [INV.IOTLB | (2 << 4) | (5 << 16), 0, 0, 0]),
  vtd('context, device', [INV.CONTEXT | (3 << 4) | (5 << 16), 0x10, 0, 0]),
];
