import { expect, test } from 'vitest';
import { dtb, dts, pcieNode, smmuv3Node } from '../../../src/machine/firmware/devicetree.ts';
import { readDtb } from '../../../src/machine/firmware/fdt-reader.ts';

const ROOT = {
  name: '',
  properties: { '#address-cells': [2], '#size-cells': [2], compatible: ['linux,dummy-virt'] },
  children: [
    smmuv3Node({ base: 0x5e00_0000, phandle: 0x9001, spi: { event: 96, pri: 97, sync: 98, gerror: 99 } }),
    pcieNode({
      ecam: 0x5e10_0000,
      buses: 1,
      mmio32: { base: 0x5f00_0000, bytes: 0x100_0000 },
      iommuMap: [{ first: 0, phandle: 0x9001, iommuBase: 0, count: 0x1_0000 }],
      msiMap: [{ first: 0, phandle: 0x8003, msiBase: 0, count: 0x1_0000 }],
      ats: true,
    }),
  ],
};

/** A reader of the flattened format that shares nothing with the writer. */
function read(blob: Uint8Array): Record<string, Record<string, Buffer>> {
  const b = Buffer.from(blob);
  expect(b.readUInt32BE(0)).toBe(0xd00dfeed);
  expect(b.readUInt32BE(4)).toBe(b.length);
  const struct = b.readUInt32BE(8);
  const strings = b.readUInt32BE(12);
  const cstring = (at: number) => b.toString('utf8', at, b.indexOf(0, at));
  const nodes: Record<string, Record<string, Buffer>> = {};
  const path: string[] = [];
  for (let p = struct; ; ) {
    const token = b.readUInt32BE(p);
    p += 4;
    if (token === 9) return nodes;
    if (token === 1) {
      const name = cstring(p);
      p += (name.length + 4) & ~3;
      path.push(name);
      nodes[path.join('/')] = {};
    } else if (token === 2) {
      path.pop();
    } else {
      const length = b.readUInt32BE(p);
      const name = cstring(strings + b.readUInt32BE(p + 4));
      nodes[path.join('/')]![name] = b.subarray(p + 8, p + 8 + length);
      p += 8 + ((length + 3) & ~3);
    }
  }
}

test('an OS that reads the blob finds the SMMU behind the bridge it is wired to', () => {
  const nodes = read(dtb(ROOT));
  const smmu = nodes['/iommu@5e000000']!;
  const pcie = nodes['/pcie@5e100000']!;

  expect(smmu.compatible!.toString()).toBe('arm,smmu-v3\0');
  expect(smmu.reg!.toString('hex')).toBe('000000005e0000000000000000020000');
  expect(smmu['interrupt-names']!.toString()).toBe('eventq\0priq\0cmdq-sync\0gerror\0');
  expect(smmu.interrupts!.readUInt32BE(4)).toBe(96);
  expect(smmu['dma-coherent']!.length).toBe(0);
  expect(pcie['iommu-map']!.toString('hex')).toBe('00000000000090010000000000010000');
  expect(pcie['iommu-map']!.readUInt32BE(4)).toBe(smmu.phandle!.readUInt32BE(0));
  expect(pcie['ats-supported']).toBeDefined();
});

test('the source text says the same in words', () => {
  const text = dts(ROOT);
  expect(text).toContain('compatible = "arm,smmu-v3";');
  expect(text).toContain('iommu-map = <0x0 0x9001 0x0 0x10000>;');
  expect(text).toContain('\t\tdma-coherent;\n');
});

test('what was written is read back, and writes again as the same bytes', () => {
  const blob = dtb(ROOT);
  expect(Buffer.from(dtb(readDtb(blob))).equals(Buffer.from(blob))).toBe(true);
  expect(() => readDtb(blob.subarray(0, 100))).toThrow(/cut short/);
  expect(() => readDtb(new Uint8Array(64))).toThrow(/no header/);
});
