import { describe, expect, test } from 'vitest';
import { Bridge } from '../../../bus/bridge.ts';
import { RamDisk } from '../../../devices/endpoints/nvme/disk.ts';
import { NvmeFunction } from '../../../devices/endpoints/nvme/function.ts';
import { V86_LAYOUT } from '../../../src/adapters/v86/machine.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { plugged, settled } from './fake-v86.ts';

const { VTD, ECAM, ENDPOINT, ROOT_PORT } = V86_LAYOUT;
const BAR = 0xc010_0000;
const [ROOT, CONTEXT, TABLE, DATA] = [0x10_0000, 0x10_1000, 0x10_2000, 0x18_0000];

function withDisk(options: Parameters<typeof plugged>[0] = {}) {
  const rig = plugged(options);
  const nvme = new NvmeFunction({ disk: new RamDisk(1 << 20), integrated: true });
  rig.machine.plug(nvme.fn, ENDPOINT);
  const dma = (iova: number, value: number) => {
    const link = rig.machine.complex.link(rig.machine.complex.byRid(ENDPOINT)!)!;
    const four = new Uint8Array(Int32Array.of(value).buffer);
    return rig.v86.outside(() => link.write(NO_PASID, iova, 0, ACCESS.WRITE, AT.UNTRANSLATED, four, 0, 4));
  };
  return { ...rig, nvme, dma };
}

/** Places the BAR, maps I/O page 5 to DATA, switches translation on, sends faults to vector 0x41. */
function boot(cpu: ReturnType<typeof withDisk>['cpu']): void {
  cpu.configWrite(ENDPOINT, 0x10, 4, BAR);
  cpu.configWrite(ENDPOINT, 4, 2, 6);
  cpu.store(ROOT, 8, BigInt(CONTEXT) | 1n);
  cpu.store(CONTEXT + 16 * ENDPOINT, 8, BigInt(TABLE) | 1n);
  cpu.store(CONTEXT + 16 * ENDPOINT + 8, 8, 0x102n);
  for (let l = 0; l < 3; l++) cpu.store(TABLE + 4096 * l, 8, BigInt(TABLE + 4096 * (l + 1)) | 3n);
  cpu.store(TABLE + 4096 * 3 + 8 * 5, 8, BigInt(DATA) | 3n);
  cpu.store(VTD + 0x3c, 4, 0x41n);
  cpu.store(VTD + 0x40, 4, 0xfee0_0000n);
  cpu.store(VTD + 0x38, 4, 0n);
  cpu.store(VTD + 0x20, 8, BigInt(ROOT));
  cpu.store(VTD + 0x18, 4, 0x4000_0000n);
  cpu.store(VTD + 0x18, 4, 0x8000_0000n);
}

describe('configuration space', () => {
  test('ports and ECAM show one and the same function, and v86 keeps its own', () => {
    const { cpu } = withDisk();
    expect(cpu.config(ENDPOINT, 0)).toBe(0x10_1b36);
    expect(cpu.load(ECAM + (ENDPOINT << 12), 4)).toBe(0x10_1b36n);
    cpu.configWrite(ENDPOINT, 0x3c, 1, 0x5a);
    expect(cpu.load(ECAM + (ENDPOINT << 12) + 0x3c, 1)).toBe(0x5an);
    cpu.store(ECAM + (ENDPOINT << 12) + 0x3c, 1, 0xa5n);
    expect(cpu.config(ENDPOINT, 0x3c) & 0xff).toBe(0xa5);
    expect([cpu.config(0, 0), cpu.load(ECAM, 4)]).toEqual([0x1237_8086, 0x1237_8086n]);
    cpu.configWrite(0, 0x40, 4, 0x1234_5678);
    expect(cpu.load(ECAM + 0x42, 2)).toBe(0x1234n);
    expect(cpu.load(ECAM + 0x100, 4)).toBe(0n);
  });

  test('our registers have their masks: ids stay, status bits clear', () => {
    const { cpu } = withDisk();
    cpu.configWrite(ENDPOINT, 0, 4, 0);
    cpu.store(ECAM + (ENDPOINT << 12), 4, 0n);
    expect(cpu.config(ENDPOINT, 0)).toBe(0x10_1b36);
  });

  test('where there is no function, reads are ones and writes go nowhere', () => {
    const { cpu, errors } = withDisk();
    for (const bdf of [0x08, 0x100, 0xfff]) {
      expect([cpu.config(bdf, 0), cpu.load(ECAM + (bdf << 12), 4)]).toEqual([0xffff_ffff, 0xffff_ffffn]);
      for (const size of [1, 2, 4] as const) cpu.configWrite(bdf, 0x10, size, 1);
      cpu.store(ECAM + (bdf << 12) + 0x10, 4, 1n);
    }
    expect(errors).toEqual([]);
  });

  test('a function behind a root port answers under the bus number the guest gives it', () => {
    const { cpu, machine } = plugged({ behindRootPort: true });
    machine.plug(new Bridge({ kind: 'root' }), ROOT_PORT);
    const nvme = new NvmeFunction({ disk: new RamDisk(1 << 20) });
    machine.plug(nvme.fn, 0, machine.complex.byRid(ROOT_PORT)!.behind!);
    expect(cpu.config(0x300, 0)).toBe(0xffff_ffff);
    cpu.configWrite(ROOT_PORT, 0x18, 4, 0x03_0300);
    expect([cpu.config(0x300, 0), cpu.load(ECAM + 0x30_0000, 4)]).toEqual([0x10_1b36, 0x10_1b36n]);
    cpu.configWrite(ROOT_PORT, 0x18, 4, 0x05_0500);
    expect([cpu.config(0x300, 0), cpu.config(0x500, 0)]).toEqual([0xffff_ffff, 0x10_1b36]);
  });
});

describe('BARs', () => {
  test('the registers are where the guest put them, and only while memory decoding is on', () => {
    const { cpu } = withDisk();
    boot(cpu);
    expect(cpu.load(BAR + 8, 4)).toBe(0x1_0400n);
    cpu.configWrite(ENDPOINT, 0x10, 4, 0xfe60_0000);
    expect([cpu.load(BAR + 8, 4), cpu.load(0xfe60_0008, 4)]).toEqual([0xffff_ffffn, 0x1_0400n]);
    cpu.configWrite(ENDPOINT, 4, 2, 0);
    expect(cpu.load(0xfe60_0008, 4)).toBe(0xffff_ffffn);
  });

  test('one put on top of the unit or of ECAM hides neither, and nothing fails', () => {
    const { cpu, errors } = withDisk();
    boot(cpu);
    const version = cpu.load(VTD, 4);
    for (const at of [VTD, ECAM, 0xfee0_0000, 0]) {
      cpu.configWrite(ENDPOINT, 0x10, 4, at);
      expect([cpu.load(VTD, 4), cpu.load(ECAM, 4)]).toEqual([version, 0x1237_8086n]);
    }
    cpu.configWrite(ENDPOINT, 0x10, 4, BAR);
    expect(cpu.load(BAR + 8, 4)).toBe(0x1_0400n);
    expect(errors).toEqual([]);
  });
});

describe('DMA', () => {
  test("goes through the guest's tables into v86's memory, also after that moved", () => {
    const { cpu, dma, errors } = withDisk();
    boot(cpu);
    expect(dma(0x5000, 0x1111)).toBe(DMA.OK);
    expect(cpu.load(DATA, 4)).toBe(0x1111n);
    cpu.grow();
    expect(dma(0x5004, 0x2222)).toBe(DMA.OK);
    expect([cpu.load(DATA, 4), cpu.load(DATA + 4, 4)]).toEqual([0x1111n, 0x2222n]);
    cpu.store(DATA + 8, 4, 0x3333n);
    cpu.grow();
    cpu.load(VTD, 4);
    expect(dma(0x500c, 0x4444)).toBe(DMA.OK);
    expect([cpu.load(DATA + 8, 4), cpu.load(DATA + 12, 4)]).toEqual([0x3333n, 0x4444n]);
    expect(errors).toEqual([]);
  });

  test('compiled code of the page it wrote is thrown away', () => {
    const { cpu, dma } = withDisk();
    boot(cpu);
    cpu.flushed.length = 0;
    dma(0x5000, 1);
    expect(cpu.flushed).toEqual([DATA]);
  });

  test('a fault is recorded and its message reaches the local APIC, never from inside an access', async () => {
    const { cpu, dma } = withDisk();
    boot(cpu);
    expect(dma(0x9000, 1)).toBe(DMA.ABORT);
    await settled();
    await settled();
    expect(cpu.lapic[16 + 2]! & 2).toBe(2);
    expect([cpu.raised, cpu.early]).toEqual([['handle_irqs'], 0]);
    expect(cpu.load(VTD + 0x34, 4) & 2n).toBe(2n);
  });
});

describe('firmware', () => {
  const tables = (rig: ReturnType<typeof plugged>) =>
    rig.cpu.option_roms.map((r) => Buffer.from(r.data).toString('latin1')).join();

  test('the tables go in through fw_cfg, and the power management ports are where the firmware puts them', () => {
    const rig = plugged();
    expect(rig.cpu.option_roms.map((r) => r.name)).toContain('etc/table-loader');
    for (const signature of ['DMAR', 'MCFG', 'APIC', 'FACP', 'DSDT']) expect(tables(rig)).toContain(signature);
    for (let i = 0; i < 0x40; i++) expect(rig.cpu.ports[0x600 + i]).toBe(rig.cpu.ports[0xb000 + i]);
  });

  test('a hidden unit is in no table', () => {
    expect(tables(plugged({ hidden: true }))).not.toContain('DMAR');
    expect(tables(plugged({ hidden: true }))).toContain('MCFG');
  });
});

test('CLFLUSH goes at the first look at the unit, before the driver uses one, and once', () => {
  const { cpu, v86 } = plugged({}, 0x150_0000);
  const site = 0x123_4567;
  cpu.bytes.set([0x3e, 0x0f, 0xae, 0x3b], site);
  expect([v86.clflush(), cpu.bytes[site + 2]]).toEqual([0, 0xae]);
  cpu.load(VTD + 8, 4);
  expect([v86.clflush(), cpu.bytes[site + 2]]).toEqual([1, 0x1f]);
  cpu.bytes.set([0x3e, 0x0f, 0xae, 0x3b], site);
  cpu.load(VTD + 8, 4);
  expect(cpu.bytes[site + 2]).toBe(0xae);
});

test('a guest that was saved goes on in a new v86', () => {
  const a = withDisk();
  boot(a.cpu);
  expect(a.dma(0x5000, 1)).toBe(DMA.OK);
  const state = JSON.parse(JSON.stringify(a.machine.save()));
  const b = withDisk();
  b.cpu.bytes.set(a.cpu.bytes);
  b.v86.restored(state);
  expect(b.cpu.load(BAR + 8, 4)).toBe(0x1_0400n);
  expect(b.dma(0x5000, 0x77)).toBe(DMA.OK);
  expect(b.cpu.load(DATA, 4)).toBe(0x77n);
  expect(b.errors).toEqual([]);
});

test('a defect of a function is reported, and the guest reads ones', () => {
  const { cpu, errors, nvme } = withDisk();
  boot(cpu);
  nvme.fn.barRead = () => {
    throw new Error('broken');
  };
  expect(cpu.load(BAR, 4)).toBe(0xffff_ffffn);
  expect(errors.map((e) => (e as Error).message)).toEqual(['broken']);
});
