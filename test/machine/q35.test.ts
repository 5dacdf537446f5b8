import { describe, expect, test } from 'vitest';
import { DmaEngine } from '../../devices/endpoints/dma-engine.ts';
import { parseQemuArgs } from '../../src/lib/qemu-args/qemu-args.ts';
import { IOAPIC_RID } from '../../src/machine/ioapic.ts';
import { createQemuMachine } from '../../src/machine/qemu-machine.ts';

const IOAPIC = 0xfec0_0000;
const VTD = 0xfed9_0000;

/** A q35 with a DMA engine at 02.0, and what reaches the processors. */
function machine(iommu = '') {
  const m = createQemuMachine(parseQemuArgs(`-machine q35 -m 64 ${iommu}`), { nic: false, vga: true });
  const messages: string[] = [];
  m.irq.to = {
    pulse() {},
    level() {},
    message: (address, data) => {
      messages.push(`${address.toString(16)}=${data.toString(16)}`);
      return true;
    },
  };
  const engine = new DmaEngine({ integrated: true });
  m.board!.plug(engine.fn, 0x10);
  const map = m.map!;
  const write = (at: number, value: number, size: 4 | 8 = 4, hi = 0) => map.write(at, size, value | 0, hi);
  const read = (at: number) => {
    map.read(at, 4);
    return map.lo >>> 0;
  };
  const entry = (pin: number, low: number, high: number) => {
    for (const [i, value] of [
      [0x11 + 2 * pin, high],
      [0x10 + 2 * pin, low],
    ] as const) {
      write(IOAPIC, i);
      write(IOAPIC + 0x10, value);
    }
  };
  return { m, messages, engine, write, read, entry };
}

describe('the IOAPIC of q35', () => {
  test('registers keep what QEMU keeps', () => {
    const { write, read } = machine();
    const seen = [0, 1, 2, 0x10, 0x11, 0x3f, 0x40].map((r) => {
      write(IOAPIC, r);
      const before = read(IOAPIC + 0x10);
      write(IOAPIC + 0x10, 0xffff_ffff);
      return [before, read(IOAPIC + 0x10)];
    });
    expect(seen).toEqual([
      [0, 0x0f00_0000],
      [0x0017_0020, 0x0017_0020],
      [0x0f00_0000, 0x0f00_0000],
      [0x1_0000, 0xffff_afff],
      [0, 0xffff_ffff],
      [0, 0xffff_ffff],
      [0, 0],
    ]);
  });

  test('a level interrupt of a function is one message until the processor is done with it, and again while it is held', () => {
    const { messages, engine, write, entry } = machine();
    // Device 2, INTA: PIRQG.
    entry(22, 0x8041, 0x0300_0000);
    engine.fn.interrupts.raise(0);
    expect(messages).toEqual(['fee03000=c041']);
    engine.fn.interrupts.raise(1);
    expect(messages).toHaveLength(1);
    write(IOAPIC + 0x40, 0x41);
    expect(messages).toHaveLength(2);
    engine.fn.interrupts.clear(0);
    engine.fn.interrupts.clear(1);
    write(IOAPIC + 0x40, 0x41);
    expect(messages).toHaveLength(2);
  });

  test('a masked pin is silent, and speaks when the mask goes while the level is there', () => {
    const { messages, engine, entry } = machine();
    engine.fn.interrupts.raise(0);
    expect(messages).toEqual([]);
    entry(22, 0x8041, 0);
    expect(messages).toHaveLength(1);
  });

  test("with interrupt remapping on, a remappable entry goes through the guest's table under the IOAPIC's own id", () => {
    const { messages, engine, write, entry, read } = machine('-device intel-iommu,intremap=on,eim=off');
    // One entry, number 5: present, vector 0x77, destination 2, only for the IOAPIC.
    write(0x10_0050, 0x0077_0001, 8, 2 << 8);
    write(0x10_0058, 0x0004_0000 | IOAPIC_RID, 8, 0);
    write(VTD + 0xb8, 0x10_0003, 8, 0);
    write(VTD + 0x18, 0x0100_0000);
    write(VTD + 0x18, 0x0300_0000);
    expect(read(VTD + 0x1c) & 0x0300_0000).toBe(0x0300_0000);
    // Handle 5, remappable format (bit 48).
    entry(22, 0x8077, (5 << 17) | 0x1_0000);
    engine.fn.interrupts.raise(0);
    expect(messages).toHaveLength(1);
    expect(messages[0]).toMatch(/^fee02000=/);
    // Entry 6 is not there: nothing comes, and a fault names the IOAPIC.
    engine.fn.interrupts.clear(0);
    write(IOAPIC + 0x40, 0x77);
    entry(22, 0x8077, (6 << 17) | 0x1_0000);
    engine.fn.interrupts.raise(0);
    expect(messages).toHaveLength(1);
    expect([read(VTD + 0x22c) & 0xff, read(VTD + 0x228) & 0xffff]).toEqual([0x22, IOAPIC_RID]);
  });
});

test('the configuration address register outlives a reset of the machine (measured on QEMU 11.1.3)', () => {
  const { m } = machine('-device intel-iommu');
  m.portWrite(0xcf8, 4, 0x8000_0000);
  m.reset();
  expect([m.portRead(0xcf8, 4) >>> 0, m.portRead(0xcfc, 4) >>> 0]).toEqual([0x8000_0000, 0x29c0_8086]);
});

describe('the ECAM of q35', () => {
  const ECAM = 0xe000_0000;
  const made = () => {
    const m = machine('-device intel-iommu');
    const pciexbar = (value: number) => {
      m.m.portWrite(0xcf8, 4, 0x8000_0060);
      m.m.portWrite(0xcfc, 4, value);
    };
    return { ...m, pciexbar };
  };

  test('is where PCIEXBAR says after a load, and nowhere after a reset', () => {
    const a = made();
    a.pciexbar(ECAM + 1);
    expect(a.read(ECAM)).toBe(0x29c0_8086);
    const b = made();
    expect(b.read(ECAM)).toBe(0);
    b.m.load(JSON.parse(JSON.stringify(a.m.save())));
    expect(b.read(ECAM)).toBe(0x29c0_8086);
    b.m.reset();
    expect(b.read(ECAM)).toBe(0);
  });
});

describe('x-profile=arch on the command line', () => {
  const made = (words: string) => createQemuMachine(parseQemuArgs(words), { nic: false, vga: false });

  test.each([
    ['-machine q35 -device intel-iommu', true],
    ['-machine q35 -device intel-iommu,x-profile=arch', false],
    ['-machine virt -device arm-smmuv3', true],
    ['-machine virt -device arm-smmuv3,x-profile=arch', false],
    ['-machine virt,iommu=smmuv3,x-profile=arch', false],
  ])('%s: the board cuts requests as QEMU does: %s', (words, likeQemu) => {
    const { board } = made(words);
    expect(board!.likeQemu).toBe(likeQemu);
    expect(board!.complex.link(board!.plugTestdev())!.insist).toBe(likeQemu);
  });

  test('messages of the test device name it', () => {
    expect(made('-machine q35 -device intel-iommu,x-profile=arch').board!.complex.anonymousWrites).toBe(false);
  });

  test('another profile is refused', () => {
    expect(() => made('-machine virt -device arm-smmuv3,x-profile=best')).toThrow(/x-profile/);
  });
});

test('a wait whose status write aims at the unit itself stops the queue, as in QEMU', () => {
  const { write, read } = machine('-device intel-iommu');
  // A wait with status 7 for FECTL's neighbour FEDATA.
  write(0x10_0000, 0x25, 8, 7);
  write(0x10_0008, VTD + 0x3c, 8, 0);
  write(VTD + 0x90, 0x10_0000, 8, 0);
  write(VTD + 0x18, 0x0400_0000);
  write(VTD + 0x88, 0x10);
  expect([read(VTD + 0x34), read(VTD + 0x80), read(VTD + 0x3c)]).toEqual([0x10, 0, 0]);
});
