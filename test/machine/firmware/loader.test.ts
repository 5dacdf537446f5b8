import { expect, test } from 'vitest';
import { acpiLoaderFiles } from '../../../src/machine/firmware/loader.ts';
import { mcfg } from '../../../src/machine/firmware/mcfg.ts';
import { dsdt, fadt, madt } from '../../../src/machine/firmware/pc.ts';

const PC = { sci: 9, pm1aEvent: 0xb000, pm1aControl: 0xb004, pmTimer: 0xb008, gpe0: 0xafe0 };
const BRIDGE = {
  mmio: { base: 0xc000_0000, last: 0xfebf_ffff },
  lastBus: 15,
  intx: [{ device: 0x10, gsi: [11, 10, 10, 11] as const }],
  reserved: [{ base: 0xb000_0000, bytes: 0x100_0000 }],
};

/** A firmware that runs the script the way SeaBIOS does, on memory of its own. */
function firmware(files: readonly { name: string; data: Uint8Array }[]) {
  const memory = new Uint8Array(0x2_0000);
  const view = new DataView(memory.buffer);
  const where = new Map<string, number>();
  const script = Buffer.from(files.find((f) => f.name === 'etc/table-loader')!.data);
  let next = 0x1_0000;
  const str = (at: number) => script.toString('latin1', at, at + 56).replace(/\0+$/, '');
  for (let p = 0; p < script.length; p += 128) {
    const code = script.readUInt32LE(p);
    if (code === 1) {
      const align = script.readUInt32LE(p + 60);
      next = Math.ceil(next / align) * align;
      const data = files.find((f) => f.name === str(p + 4))!.data;
      memory.set(data, next);
      where.set(str(p + 4), next);
      next += data.length;
    } else if (code === 2) {
      const at = where.get(str(p + 4))! + script.readUInt32LE(p + 116);
      expect(script[p + 120]).toBe(4);
      view.setUint32(at, view.getUint32(at, true) + where.get(str(p + 60))!, true);
    } else {
      expect(code).toBe(3);
      const base = where.get(str(p + 4))!;
      const [result, start, length] = [60, 64, 68].map((o) => script.readUInt32LE(p + o));
      let sum = 0;
      for (let i = 0; i < length!; i++) sum += memory[base + start! + i]!;
      memory[base + result!] = (memory[base + result!]! - sum) & 0xff;
    }
  }
  return { memory, view, rsdp: where.get('etc/viommu/rsdp')! };
}

test('after the script ran an OS finds every table from the RSDP, each with a right checksum', () => {
  const { memory, view, rsdp } = firmware(
    acpiLoaderFiles(fadt(PC), dsdt(BRIDGE), [madt(), mcfg([{ base: 0xb000_0000, firstBus: 0, lastBus: 15 }])]),
  );
  const text = (at: number, n: number) => Buffer.from(memory.subarray(at, at + n)).toString('latin1');
  const sum = (at: number, n: number) => memory.subarray(at, at + n).reduce((a, b) => a + b, 0) & 0xff;
  const table = (at: number) => {
    expect(sum(at, view.getUint32(at + 4, true)), text(at, 4)).toBe(0);
    return text(at, 4);
  };

  expect(text(rsdp, 8)).toBe('RSD PTR ');
  expect(sum(rsdp, 20)).toBe(0);
  const rsdt = view.getUint32(rsdp + 16, true);
  expect(table(rsdt)).toBe('RSDT');
  const listed = [0, 1, 2].map((i) => view.getUint32(rsdt + 36 + 4 * i, true));
  expect(listed.map(table)).toEqual(['FACP', 'APIC', 'MCFG']);
  expect(table(view.getUint32(listed[0]! + 40, true))).toBe('DSDT');
  const facs = view.getUint32(listed[0]! + 36, true);
  expect(text(facs, 4)).toBe('FACS');
  expect(facs % 64).toBe(0);
});
