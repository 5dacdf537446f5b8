import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { RamDisk } from '../../../devices/endpoints/nvme/disk.ts';
import { NvmeFunction } from '../../../devices/endpoints/nvme/function.ts';
import type { Emulator, MachinePlan } from '../../../src/machine/machine-plan.ts';
import type { PluggedMachine } from '../../../src/machine/plugged-machine.ts';
import { PluggedMachine as Machine } from '../../../src/machine/plugged-machine.ts';
import { VtdUnit } from '../../../src/machine/vtd-unit.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { plugIntoToy, TOY, TOY_PROPS, ToyEmulator } from './toy.ts';

const DEVFN = 3 << 3;
const CONFIG = TOY.ECAM + (DEVFN << 12);
const BAR = TOY.PCI + 0x1_0000;
const ROOT = 0x10_0000;
const CONTEXT = 0x10_1000;
const TABLE = 0x10_2000;
const QUEUE = 0x10_8000;
const DATA = 0x18_0000;

function made(split = false) {
  const toy = new ToyEmulator(split);
  const machine = plugIntoToy(toy);
  const nvme = new NvmeFunction({ disk: new RamDisk(1 << 20), integrated: true });
  machine.plug(nvme.fn, DEVFN);
  return { toy, machine, nvme };
}

/** A guest of twenty lines: places the BAR, makes tables that map page 0x5000 to DATA, switches translation on. */
function boot(toy: ToyEmulator): void {
  toy.store(CONFIG + 0x10, 8, BigInt(BAR));
  toy.store(CONFIG + 4, 2, 6n);
  toy.store(ROOT, 8, BigInt(CONTEXT) | 1n);
  toy.store(CONTEXT + 16 * DEVFN, 8, BigInt(TABLE) | 1n);
  toy.store(CONTEXT + 16 * DEVFN + 8, 8, 0x102n);
  for (let level = 0; level < 3; level++) toy.store(TABLE + 4096 * level, 8, BigInt(TABLE + 4096 * (level + 1)) | 3n);
  toy.store(TABLE + 4096 * 3 + 8 * 5, 8, BigInt(DATA) | 3n);
  toy.store(TOY.IOMMU + 0x3c, 4, 0x41n);
  toy.store(TOY.IOMMU + 0x40, 4, BigInt(TOY.DOORBELL));
  toy.store(TOY.IOMMU + 0x38, 4, 0n);
  toy.store(TOY.IOMMU + 0x20, 8, BigInt(ROOT));
  toy.store(TOY.IOMMU + 0x18, 4, 0x4000_0000n);
  toy.store(TOY.IOMMU + 0x90, 8, BigInt(QUEUE));
  toy.store(TOY.IOMMU + 0x18, 4, 0x0400_0000n);
  toy.store(TOY.IOMMU + 0x18, 4, 0x8400_0000n);
}

/** A 4-byte DMA write of the function. */
function dma(machine: PluggedMachine, iova: number, value: number): number {
  const link = machine.complex.link(machine.complex.byRid(DEVFN)!)!;
  const bytes = new Uint8Array(Int32Array.of(value).buffer);
  return link.write(NO_PASID, iova, 0, ACCESS.WRITE, AT.UNTRANSLATED, bytes, 0, 4);
}

/** Submits a wait that writes `status` to DATA and interrupts. */
function wait(toy: ToyEmulator, slot: number, status: number): void {
  toy.store(TOY.IOMMU + 0xa0, 4, 0n);
  toy.store(TOY.IOMMU + 0xa4, 4, 0x42n);
  toy.store(TOY.IOMMU + 0xa8, 4, BigInt(TOY.DOORBELL));
  toy.store(QUEUE + 16 * slot, 8, (BigInt(status) << 32n) | 0x35n);
  toy.store(QUEUE + 16 * slot + 8, 8, BigInt(DATA));
  toy.store(TOY.IOMMU + 0x88, 8, BigInt(16 * (slot + 1)));
}

describe('the worked example', () => {
  test('a guest on the toy emulator translates DMA through the vVT-d', () => {
    const { toy, machine } = made();
    boot(toy);
    expect(toy.load(TOY.IOMMU + 0x1c, 4) >> 31n).toBe(1n);
    expect(dma(machine, 0x5010, 0x1234)).toBe(DMA.OK);
    expect(toy.load(DATA + 0x10, 4)).toBe(0x1234n);
    expect(dma(machine, 0x6000, 1)).toBe(DMA.ABORT);
    expect(toy.errors).toEqual([]);
  });

  test('it reaches a function behind its BAR where it placed it', () => {
    const { toy } = made();
    expect(toy.load(BAR, 4)).toBe(0xffff_ffffn);
    boot(toy);
    expect(toy.load(BAR + 8, 4)).toBe(0x1_0400n);
    toy.store(CONFIG + 0x10, 8, BigInt(BAR + 0x1_0000));
    expect([toy.load(BAR + 8, 4), toy.load(BAR + 0x1_0008, 4)]).toEqual([0xffff_ffffn, 0x1_0400n]);
  });
});

test('accesses of 2 and 8 bytes mean the same whole and split', () => {
  const seen = [false, true].map((split) => {
    const { toy, machine } = made(split);
    boot(toy);
    wait(toy, 0, 7);
    const reads: bigint[] = [];
    for (let at = 0; at < 0xe0; at += 8) reads.push(toy.load(TOY.IOMMU + at, 8));
    for (let at = 0; at < 0x200; at += 2) reads.push(toy.load(CONFIG + at, 2));
    for (let at = 0; at < 0x40; at += 8) reads.push(toy.load(CONFIG + at, 8), toy.load(BAR + at, 8));
    reads.push(BigInt(dma(machine, 0x5000, 9)), BigInt(dma(machine, 0x7000, 9)), toy.load(DATA, 8));
    return { reads, interrupts: toy.interrupts };
  });
  expect(seen[1]).toEqual(seen[0]);
});

test('a read of 1, 2 or 8 bytes is the part of the words it covers', () => {
  const { toy } = made();
  boot(toy);
  for (const base of [TOY.IOMMU, CONFIG, BAR]) {
    for (let at = 0; at < 0x100; at += 8) {
      const low = toy.load(base + at, 4);
      const high = toy.load(base + at + 4, 4);
      expect(toy.load(base + at, 8), at.toString(16)).toBe((high << 32n) | low);
      if (base === TOY.IOMMU) continue;
      for (let i = 0; i < 4; i++) expect(toy.load(base + at + i, 1)).toBe((low >> BigInt(8 * i)) & 0xffn);
      for (let i = 0; i < 4; i += 2) expect(toy.load(base + at + i, 2)).toBe((low >> BigInt(8 * i)) & 0xffffn);
    }
  }
});

test('interrupts come between instructions, never from inside an access', () => {
  const { toy, machine } = made();
  boot(toy);
  wait(toy, 0, 7);
  expect(toy.load(DATA, 4)).toBe(7n);
  dma(machine, 0x9000, 1);
  toy.load(0, 4);
  expect(toy.interrupts).toEqual(['message fee00000 42', 'message fee00000 41']);
  expect(toy.early).toBe(0);
});

test('whatever a guest does, nothing is thrown into the emulator and nothing interrupts inside an access', () => {
  const bases = [TOY.IOMMU, CONFIG, TOY.ECAM, TOY.PCI, BAR];
  const action = fc.record({
    base: fc.constantFrom(...bases),
    at: fc.integer({ min: 0, max: 0x1ff }),
    size: fc.constantFrom(1, 2, 4, 8),
    value: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    write: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
      const { toy } = made();
      boot(toy);
      for (const a of actions) {
        const at = a.base + a.at * a.size;
        if (a.write) toy.store(at, a.size, BigInt.asUintN(8 * a.size, a.value));
        else expect(toy.load(at, a.size)).toBeLessThan(2n ** BigInt(8 * a.size));
      }
      expect([toy.errors, toy.early]).toEqual([[], 0]);
    }),
    { numRuns: 100 },
  );
});

test('a function that throws is reported; the guest reads ones and goes on', () => {
  const { toy, machine, nvme } = made();
  boot(toy);
  const broken = {
    name: 'broken',
    bytes: 4096,
    read: () => {
      throw new Error('read');
    },
    read64: () => {
      throw new Error('read64');
    },
    write: () => {
      throw new Error('write');
    },
  };
  const w = machine.guard(broken);
  const out = Int32Array.of(1, 2);
  expect([w.read(0, 1), w.read(0, 2), w.read(0, 4)]).toEqual([0xff, 0xffff, 0xffff_ffff]);
  w.read64(0, out);
  w.write(0, 4, 1, 0);
  expect([...out]).toEqual([-1, -1]);
  expect(toy.errors.map((e) => (e as Error).message)).toEqual(['read', 'read', 'read', 'read64', 'write']);
  nvme.fn.barRead = () => {
    throw new Error('BAR');
  };
  expect(toy.load(BAR, 4)).toBe(0xffff_ffffn);
  expect(toy.load(CONFIG, 4)).toBe(0x10_1b36n);
});

describe('a machine that cannot be', () => {
  const build = (change: Partial<MachinePlan>, ram: Emulator['ram'] = [{ base: 0, bytes: 0x10_0000 }]) => {
    const emulator: Emulator = { ram, claim() {}, interrupts: { line() {}, message() {} } };
    const plan: MachinePlan = { iommu: TOY.IOMMU, doorbell: { base: TOY.DOORBELL, bytes: 4096 }, ...change };
    return () =>
      new Machine(emulator, plan, (vm, irq, tell) => new VtdUnit(vm, { name: 'v', properties: TOY_PROPS, irq, tell }));
  };

  test('without RAM it is told to give some', () => {
    expect(build({}, [])).toThrow(/no guest RAM: give `ram`/);
  });

  test('with overlapping parts it is told which', () => {
    expect(build({ ecam: { base: TOY.IOMMU - 0x1000, buses: 1 } })).toThrow(/the IOMMU overlaps ECAM/);
    expect(build({ doorbell: { base: 0x8_0000, bytes: 4096 } })).toThrow(/the doorbell overlaps guest RAM/);
    expect(build({ pci: { base: TOY.DOORBELL + 0x800, bytes: 4096 } })).toThrow(
      /memory for BARs overlaps the doorbell/,
    );
    expect(
      build({}, [
        { base: 0, bytes: 8192 },
        { base: 4096, bytes: 8192 },
      ]),
    ).toThrow(/guest RAM overlaps guest RAM/);
  });
});

describe('snapshots', () => {
  test('a guest goes on in a new machine where it was saved in the old one', () => {
    const a = made();
    boot(a.toy);
    wait(a.toy, 0, 7);
    expect(dma(a.machine, 0x5000, 1)).toBe(DMA.OK);
    const state = JSON.parse(JSON.stringify(a.machine.save()));
    const b = made();
    b.toy.ram.words().set(a.toy.ram.words());
    b.machine.load(state);
    for (const { toy, machine } of [a, b]) {
      expect(dma(machine, 0x5004, 0x77)).toBe(DMA.OK);
      expect(toy.load(DATA + 4, 4)).toBe(0x77n);
      expect(toy.load(BAR + 8, 4)).toBe(0x1_0400n);
      wait(toy, 1, 9);
      expect(toy.load(DATA, 4)).toBe(9n);
      expect(dma(machine, 0xa000, 1)).toBe(DMA.ABORT);
    }
    for (let at = 0; at < 0xe0; at += 4) expect(b.toy.load(TOY.IOMMU + at, 4)).toBe(a.toy.load(TOY.IOMMU + at, 4));
  });

  test('going back in the same machine takes everything cached with it', () => {
    const { toy, machine, nvme } = made();
    boot(toy);
    expect(dma(machine, 0x5000, 1)).toBe(DMA.OK);
    const state = JSON.parse(JSON.stringify(machine.save()));
    const memory = toy.ram.words().slice();
    // Later the page is somewhere else.
    toy.store(TABLE + 4096 * 3 + 8 * 5, 8, BigInt(DATA + 0x1000) | 3n);
    toy.store(QUEUE, 8, 0x12n);
    toy.store(QUEUE + 8, 8, 0n);
    toy.store(TOY.IOMMU + 0x88, 8, 16n);
    expect(dma(machine, 0x5000, 2)).toBe(DMA.OK);
    expect(toy.load(DATA + 0x1000, 4)).toBe(2n);
    toy.ram.words().set(memory);
    machine.load(state);
    expect(dma(machine, 0x5000, 3)).toBe(DMA.OK);
    expect([toy.load(DATA, 4), toy.load(DATA + 0x1000, 4)]).toEqual([3n, 0n]);
    expect(toy.load(TOY.IOMMU + 0x88, 4)).toBe(0n);
    expect(nvme.fn.memory.atc.used).toBe(0);
  });

  test('a state of a machine with other functions is refused, and nothing changes', () => {
    const a = made();
    boot(a.toy);
    const toy = new ToyEmulator();
    const empty = plugIntoToy(toy);
    expect(() => empty.load(a.machine.save())).toThrow(/functions at \[03\.0\], this machine at \[\]/);
    expect(() => a.machine.load(empty.save())).toThrow(/functions at \[\], this machine at \[03\.0\]/);
    expect(dma(a.machine, 0x5000, 1)).toBe(DMA.OK);
  });

  test('a pin that was up is up after a load', () => {
    const a = made();
    boot(a.toy);
    a.nvme.fn.interrupts.raise(0);
    a.toy.load(0, 4);
    expect(a.toy.interrupts).toEqual(['line 19 up']);
    const b = made();
    b.machine.load(a.machine.save());
    b.toy.load(0, 4);
    b.nvme.fn.interrupts.clear(0);
    b.toy.load(0, 4);
    expect(b.toy.interrupts).toEqual(['line 19 up', 'line 19 down']);
  });
});
