import { describe, expect, test } from 'vitest';
import { QtestSession } from '../../src/adapters/qtest/session.ts';
import { parseQemuArgs } from '../../src/lib/qemu-args/qemu-args.ts';
import { createQemuMachine } from '../../src/machine/qemu-machine.ts';

const ECAM = 0x40_1000_0000;

/** A qtest client with words of its own. */
function client(line: string) {
  const machine = createQemuMachine(parseQemuArgs(line), { nic: false, vga: false });
  const session = new QtestSession(machine);
  const ask = (request: string) => {
    const reply = session.execute(request);
    expect(reply.startsWith('OK'), `${request}: ${reply}`).toBe(true);
    return reply.length > 2 ? Number(reply.slice(3)) : 0;
  };
  const hex = (n: number) => `0x${n.toString(16)}`;
  const cfg = (bus: number, devfn: number, at: number) => ECAM + bus * 0x10_0000 + devfn * 4096 + at;
  const write = (at: number, value: number) => ask(`writel ${hex(at)} ${hex(value)}`);
  const read = (at: number) => ask(`readl ${hex(at)}`);
  /** One DMA write of the test device; its RESULT. */
  const dma = (bar: number, iova: number, gpa: number) => {
    write(bar + 4, iova % 2 ** 32);
    write(bar + 8, Math.floor(iova / 2 ** 32));
    write(bar + 0x1c, gpa % 2 ** 32);
    write(bar + 0x20, Math.floor(gpa / 2 ** 32));
    write(bar + 0xc, 4);
    write(bar + 0x14, 1);
    read(bar);
    return read(bar + 0x10);
  };
  return { machine, ask, write, read, cfg, dma, hex };
}

/** Stream table entry 16 pages: one stage-1 stream whose 4 KiB page at `va` is `page`; the queues of an enabled SMMU. */
function enable(c: ReturnType<typeof client>, smmu: number, at: number, sid: number, page: number): void {
  const wq = (a: number, v: bigint) => c.ask(`writeq ${c.hex(a)} 0x${v.toString(16)}`);
  const [table, cd, l1, l2, l3] = [at, at + 0x1_0000, at + 0x1_1000, at + 0x1_2000, at + 0x1_3000];
  wq(table + sid * 64, BigInt(cd) | 0xbn);
  // Non-secure, 39-bit input, 4 KiB granule, TTBR1 off, AArch64, 40-bit output, A and R set.
  wq(cd, (1n << 31n) | 25n | (1n << 30n) | (2n << 32n) | (1n << 41n) | (1n << 45n) | (1n << 46n));
  wq(cd + 8, BigInt(l1));
  wq(l1, BigInt(l2) | 3n);
  wq(l2, BigInt(l3) | 3n);
  wq(l3 + 8, BigInt(page) | 0x743n);
  wq(smmu + 0x80, BigInt(table));
  c.write(smmu + 0x88, 10);
  wq(smmu + 0x90, BigInt(at + 0x2_0000) | 5n);
  wq(smmu + 0xa0, BigInt(at + 0x2_1000) | 5n);
  c.write(smmu + 0x20, 0xd);
}

describe('machine virt', () => {
  test('two SMMUs with equal stream ids each translate their own root bus', () => {
    const c = client(
      '-machine virt -m 512 -device pxb-pcie,id=pcie.1,bus_nr=16 -device arm-smmuv3,primary-bus=pcie.0 ' +
        '-device arm-smmuv3,primary-bus=pcie.1 -device iommu-testdev,addr=2 -device iommu-testdev,bus=pcie.1,addr=2',
    );
    for (const [bus, bar] of [
      [0, 0x1000_0000],
      [16, 0x1000_1000],
    ] as const) {
      expect(c.read(c.cfg(bus, 0x10, 0))).toBe(0x0005_1b36);
      c.write(c.cfg(bus, 0x10, 4), 7);
      c.write(c.cfg(bus, 0x10, 0x10), bar);
    }
    enable(c, 0x0c00_0000, 0x4100_0000, 0x10, 0x5000_0000);
    expect(c.dma(0x1000_0000, 0x1000, 0x5000_0000)).toBe(0);
    // The second one is still off: its device's addresses are memory addresses.
    expect(c.dma(0x1000_1000, 0x5100_0000, 0x5100_0000)).toBe(0);
    enable(c, 0x0c02_0000, 0x4200_0000, 0x10, 0x5200_0000);
    // Stream 0x10 is in its table, but bus 16 makes its device 0x1010.
    expect(c.dma(0x1000_1000, 0x1000, 0x5200_0000)).toBe(0xdead_0002);
    expect(c.read(0x0c03_00a8)).toBe(1);
    expect(c.read(0x0c01_00a8)).toBe(0);
  });

  test('a function behind bridges is reached, and named, through the bus numbers the guest gave', () => {
    const c = client(
      '-machine virt,iommu=smmuv3 -m 512 -device pcie-root-port,id=rp1 -device pcie-pci-bridge,id=b1,bus=rp1 ' +
        '-device iommu-testdev,bus=b1,addr=2',
    );
    const port = c.cfg(0, 8, 0);
    c.write(port + 0x18, 0x0005_0400);
    c.write(c.cfg(4, 0, 0x18), 0x0005_0504);
    for (const bridge of [port, c.cfg(4, 0, 0)]) {
      c.write(bridge + 0x20, 0x1000_1000);
      c.write(bridge + 4, 7);
    }
    expect(c.read(c.cfg(5, 0x10, 0))).toBe(0x0005_1b36);
    c.write(c.cfg(5, 0x10, 4), 7);
    c.write(c.cfg(5, 0x10, 0x10), 0x1000_0000);
    expect(c.dma(0x1000_0000, 0x5000_0000, 0x5000_0000)).toBe(0);
    // Behind the bridge to conventional PCI it is (secondary bus, 00.0).
    enable(c, 0x0905_0000, 0x4100_0000, 0x500 & 0x3ff, 0x5000_0000);
    c.write(0x0905_0020, 0);
    c.write(0x0905_0088, 16);
    c.ask(`writeq 0x41014000 0x4101000b`);
    c.write(0x0905_0020, 0xd);
    expect(c.dma(0x1000_0000, 0x1000, 0x5000_0000)).toBe(0);
  });

  test('DMA reaches the BAR of another function through both stages', () => {
    const c = client('-machine virt,iommu=smmuv3 -m 512 -device iommu-testdev -device iommu-testdev');
    for (const [devfn, bar] of [
      [8, 0x1000_0000],
      [16, 0x1000_1000],
    ] as const) {
      c.write(c.cfg(0, devfn, 4), 7);
      c.write(c.cfg(0, devfn, 0x10), bar);
    }
    enable(c, 0x0905_0000, 0x4100_0000, 8, 0x1000_1000);
    // The pattern lands in IOVA_LOW of the second device.
    expect(c.dma(0x1000_0000, 0x1004, 0x1000_1004)).toBe(0);
    expect(c.read(0x1000_1004)).toBe(0x1234_5678);
  });

  test('a system reset puts devices and the SMMU back and keeps memory', () => {
    const c = client('-machine virt,iommu=smmuv3 -m 512 -device iommu-testdev');
    c.write(c.cfg(0, 8, 4), 7);
    enable(c, 0x0905_0000, 0x4100_0000, 8, 0x5000_0000);
    c.machine.reset();
    expect(c.read(0x0905_0020)).toBe(0);
    expect(c.read(c.cfg(0, 8, 4)) & 7).toBe(0);
    expect(c.read(0x4101_3008)).toBe(0x5000_0743);
  });
});

describe('saving', () => {
  test('a machine in the middle of a test goes on elsewhere: armed device, enabled SMMU, cached nothing', () => {
    const line = '-machine virt,iommu=smmuv3 -m 64 -device iommu-testdev';
    const c = client(line);
    c.write(c.cfg(0, 8, 4), 7);
    c.write(c.cfg(0, 8, 0x10), 0x1000_0000);
    enable(c, 0x0905_0000, 0x4100_0000, 8, 0x4200_0000);
    expect(c.dma(0x1000_0000, 0x1000, 0x4200_0000)).toBe(0);
    c.write(0x1000_0014, 1);
    const state = JSON.parse(JSON.stringify(c.machine.save()));
    const ram = new Uint8Array(0x400_0000);
    c.machine.vm!.memory.guest.readBytes(0x4000_0000, ram);

    const d = client(line);
    d.machine.vm!.memory.guest.writeBytes(0x4000_0000, ram);
    d.machine.load(state);
    d.write(0x4200_0000, 0);
    expect(d.read(0x1000_0010)).toBe(0xffff_fffe);
    d.read(0x1000_0000);
    expect(d.read(0x1000_0010)).toBe(0);
    expect(d.read(0x4200_0000)).toBe(0x1234_5678);
    expect(() => client('-machine virt').machine.load(state)).toThrow(/another machine/);
  });
});

describe('wrong command lines', () => {
  test.each([
    ['-machine pc', /unsupported machine type 'pc'/],
    ['-machine virt -device frob', /'frob' is not a valid device model name/],
    ['-machine virt -device iommu-testdev,bus=x', /bus 'x' not found/],
    ['-machine virt -device iommu-testdev,addr=40', /addr is DEVICE/],
    ['-machine virt -device arm-smmuv3,primary-bus=pcie.7', /no root bus 'pcie.7'/],
    ['-machine virt -device arm-smmuv3,stage=3', /stage/],
    ['-machine virt -device iommu-testdev,addr=2 -device iommu-testdev,addr=2', /the slot is taken/],
  ])('%s', (line, message) => {
    expect(() => createQemuMachine(parseQemuArgs(line), { nic: false, vga: false })).toThrow(message);
  });
});
