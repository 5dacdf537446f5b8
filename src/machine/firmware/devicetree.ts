import { ViommuError } from '../../core/errors.ts';

/** A property: 32-bit cells, strings, nothing (a flag), or bytes as another tree had them. */
export type DtValue = readonly number[] | readonly string[] | string | true | Uint8Array;

/** A device-tree node as the Devicetree Specification has it. */
export interface DtNode {
  readonly name: string;
  readonly properties: Readonly<Record<string, DtValue>>;
  readonly children?: readonly DtNode[];
}

/** A 64-bit number as two cells. */
export function cells64(value: number): [number, number] {
  return [Math.floor(value / 2 ** 32), value % 2 ** 32];
}

export interface DtSmmuv3 {
  readonly base: number;
  readonly phandle: number;
  /** SPI numbers (the interrupt id minus 32), rising edge. */
  readonly spi: { readonly event: number; readonly pri: number; readonly sync: number; readonly gerror: number };
}

/** An SMMUv3 (Linux binding arm,smmu-v3). */
export function smmuv3Node(s: DtSmmuv3): DtNode {
  const line = (spi: number) => [0, spi, 1];
  return {
    name: `iommu@${s.base.toString(16)}`,
    properties: {
      compatible: 'arm,smmu-v3',
      reg: [...cells64(s.base), ...cells64(0x2_0000)],
      interrupts: [...line(s.spi.event), ...line(s.spi.pri), ...line(s.spi.sync), ...line(s.spi.gerror)],
      'interrupt-names': ['eventq', 'priq', 'cmdq-sync', 'gerror'],
      '#iommu-cells': [1],
      'dma-coherent': true,
      phandle: [s.phandle],
    },
  };
}

export interface DtPcie {
  readonly ecam: number;
  readonly buses: number;
  /** 32-bit memory window: PCI address equals CPU address. */
  readonly mmio32: { readonly base: number; readonly bytes: number };
  readonly mmio64?: { readonly base: number; readonly bytes: number };
  readonly iommuMap?: readonly {
    readonly first: number;
    readonly phandle: number;
    readonly iommuBase: number;
    readonly count: number;
  }[];
  readonly msiMap?: readonly {
    readonly first: number;
    readonly phandle: number;
    readonly msiBase: number;
    readonly count: number;
  }[];
  readonly ats?: boolean;
}

/** A generic ECAM host bridge (Linux bindings pci-host-ecam-generic, pci-iommu, pci-msi). */
export function pcieNode(p: DtPcie): DtNode {
  const ranges = [0x0200_0000, ...cells64(p.mmio32.base), ...cells64(p.mmio32.base), ...cells64(p.mmio32.bytes)];
  if (p.mmio64)
    ranges.push(0x0300_0000, ...cells64(p.mmio64.base), ...cells64(p.mmio64.base), ...cells64(p.mmio64.bytes));
  return {
    name: `pcie@${p.ecam.toString(16)}`,
    properties: {
      compatible: 'pci-host-ecam-generic',
      device_type: 'pci',
      reg: [...cells64(p.ecam), ...cells64(p.buses * 2 ** 20)],
      'bus-range': [0, p.buses - 1],
      ranges,
      '#address-cells': [3],
      '#size-cells': [2],
      'linux,pci-domain': [0],
      'dma-coherent': true,
      ...(p.iommuMap ? { 'iommu-map': p.iommuMap.flatMap((m) => [m.first, m.phandle, m.iommuBase, m.count]) } : {}),
      ...(p.msiMap ? { 'msi-map': p.msiMap.flatMap((m) => [m.first, m.phandle, m.msiBase, m.count]) } : {}),
      ...(p.ats ? { 'ats-supported': true as const } : {}),
    },
  };
}

/** Source text (dts), for readers and for dtc. */
export function dts(root: DtNode): string {
  return `/dts-v1/;\n\n${nodeText({ ...root, name: '/' }, '')}`;
}

function nodeText(n: DtNode, pad: string): string {
  const props = Object.entries(n.properties).map(([k, v]) => `${pad}\t${k}${valueText(v)};\n`);
  const children = (n.children ?? []).map((c) => `\n${nodeText(c, `${pad}\t`)}`);
  return `${pad}${n.name} {\n${props.join('')}${children.join('')}${pad}};\n`;
}

function valueText(v: DtValue): string {
  if (v === true) return '';
  if (v instanceof Uint8Array) return ` = [${Array.from(v, (b) => b.toString(16).padStart(2, '0')).join('')}]`;
  if (typeof v === 'string') return ` = "${v}"`;
  if (v.every((x): x is string => typeof x === 'string')) return ` = ${v.map((s) => `"${s}"`).join(', ')}`;
  return ` = <${v.map((c) => `0x${Number(c).toString(16)}`).join(' ')}>`;
}

const FDT = { magic: 0xd00d_feed, BEGIN: 1, END_NODE: 2, PROP: 3, END: 9, version: 17, compatible: 16 } as const;

/**
 * The flattened blob (Devicetree Specification §5).
 * @throws ViommuError `ERANGE` for a cell that is not an unsigned 32-bit number.
 */
export function dtb(root: DtNode): Uint8Array {
  const struct: number[] = [];
  const strings: number[] = [];
  const offsets = new Map<string, number>();
  const be32 = (into: number[], v: number) => into.push((v >>> 24) & 255, (v >>> 16) & 255, (v >>> 8) & 255, v & 255);
  const pad = () => {
    while (struct.length % 4 !== 0) struct.push(0);
  };
  const text = (into: number[], s: string) => {
    into.push(...new TextEncoder().encode(s), 0);
  };
  const nameOffset = (name: string) => {
    let at = offsets.get(name);
    if (at === undefined) {
      at = strings.length;
      offsets.set(name, at);
      text(strings, name);
    }
    return at;
  };
  const emit = (n: DtNode, name: string) => {
    be32(struct, FDT.BEGIN);
    text(struct, name);
    pad();
    for (const [key, value] of Object.entries(n.properties)) {
      const bytes = valueBytes(key, value);
      be32(struct, FDT.PROP);
      be32(struct, bytes.length);
      be32(struct, nameOffset(key));
      struct.push(...bytes);
      pad();
    }
    for (const c of n.children ?? []) emit(c, c.name);
    be32(struct, FDT.END_NODE);
  };
  emit(root, '');
  be32(struct, FDT.END);
  const reserve = new Array<number>(16).fill(0);
  const at = { reserve: 40, struct: 40 + reserve.length, strings: 40 + reserve.length + struct.length };
  const head: number[] = [];
  for (const v of [FDT.magic, at.strings + strings.length, at.struct, at.strings, at.reserve]) be32(head, v);
  for (const v of [FDT.version, FDT.compatible, 0, strings.length, struct.length]) be32(head, v);
  return Uint8Array.from([...head, ...reserve, ...struct, ...strings]);
}

function valueBytes(key: string, v: DtValue): number[] {
  if (v === true) return [];
  if (v instanceof Uint8Array) return [...v];
  const out: number[] = [];
  for (const x of typeof v === 'string' ? [v] : v) {
    if (typeof x === 'string') {
      out.push(...new TextEncoder().encode(x), 0);
    } else {
      if (!(Number.isInteger(x) && x >= 0 && x < 2 ** 32)) {
        throw new ViommuError('ERANGE', 'caller', `property ${key} holds a cell that is not 32 bits wide`, { cell: x });
      }
      out.push((x >>> 24) & 255, (x >>> 16) & 255, (x >>> 8) & 255, x & 255);
    }
  }
  return out;
}
