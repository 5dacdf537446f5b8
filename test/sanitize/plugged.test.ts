import { describe, expect, test } from 'vitest';
import { DmaEngine } from '../../devices/endpoints/index.ts';
import { vtdDefaults } from '../../devices/vtd/properties.ts';
import { SanitizedTarget } from '../../src/adapters/qtest/sanitized.ts';
import { QtestSession } from '../../src/adapters/qtest/session.ts';
import { ramBacking } from '../../src/lib/memory/address-space.ts';
import { extendedCapability } from '../../src/lib/pci/capability-list.ts';
import { parseQemuArgs } from '../../src/lib/qemu-args/qemu-args.ts';
import { PluggedMachine } from '../../src/machine/plugged-machine.ts';
import { createQemuMachine } from '../../src/machine/qemu-machine.ts';
import { VtdUnit } from '../../src/machine/vtd-unit.ts';
import type { MmioDevice } from '../../src/ports/mmio.ts';
import { ATS_CAP, EXT } from '../../src/spec/pcie/index.ts';
import { TraceRecorder } from '../../src/trace/index.ts';

const PLACE = { iommu: 0x1000_0000, doorbell: { base: 0xfee0_0000, bytes: 0x10_0000 } };
const GCMD = 0x18;
const GSTS = 0x1c;

function plugged(
  sanitize: boolean,
  record: TraceRecorder | null = null,
): { machine: PluggedMachine; unit: MmioDevice } {
  const windows = new Map<number, MmioDevice>();
  const machine = new PluggedMachine(
    {
      ram: [{ base: 0, bytes: 0x10_0000, backing: ramBacking(0x10_0000) }],
      claim: (base, window) => void windows.set(base, window),
      interrupts: { line() {}, message() {} },
    },
    { ...PLACE, record, ...(sanitize ? { sanitize: 'vtd' as const } : {}) },
    (vm, irq, tell) => new VtdUnit(vm, { name: 'vtd', properties: vtdDefaults('arch'), irq, tell }),
  );
  return { machine, unit: windows.get(PLACE.iommu)! };
}

describe('a plugged machine', () => {
  test('says what the driver of its IOMMU did wrong', () => {
    const { machine, unit } = plugged(true);
    unit.read(GSTS, 4);
    unit.write(GCMD, 4, 0x0600_0000, 0);
    unit.read(GSTS, 4);

    expect(machine.findings().map((f) => f.rule)).toEqual(['one-bit-at-a-time']);
  });

  test('says nothing of one that does one thing after the other', () => {
    const { machine, unit } = plugged(true);
    unit.read(GSTS, 4);
    unit.write(GCMD, 4, 0x0400_0000, 0);
    unit.read(GSTS, 4);

    expect(machine.findings()).toEqual([]);
  });

  test('sees ATS switched on in a function before the IOMMU allows it, and not a function without ATS in use', () => {
    const findings = (on: boolean) => {
      const { machine, unit } = plugged(true);
      const { fn } = new DmaEngine();
      machine.plug(fn, 3 << 3);
      unit.read(GSTS, 4);
      if (on) fn.configWrite(extendedCapability(fn, EXT.ATS) + ATS_CAP.CONTROL, 2, ATS_CAP.ENABLE);
      unit.read(GSTS, 4);
      return machine.findings();
    };
    expect(findings(true)).toMatchObject([{ rule: 'ats-order', stream: 3 << 3 }]);
    expect(findings(false)).toEqual([]);
  });

  test('that was not asked to judge refuses to say', () => {
    expect(() => plugged(false).machine.findings()).toThrow(/sanitize/);
  });
});

/** A root and a context table of nobody's, in use; the guest's stores go through `store`. */
function enabled(unit: MmioDevice, store: (gpa: number, size: number, lo: number, hi?: number) => void): void {
  store(ROOTS, 8, CONTEXTS | 1);
  for (const [offset, value] of [
    [0x90, QUEUE],
    [GCMD, 0x0400_0000],
    [0x20, ROOTS],
    [GCMD, 0x4400_0000],
    [GCMD, 0x8400_0000],
  ] as const) {
    unit.write(offset, 4, value, 0);
    unit.read(GSTS, 4);
  }
}
const [ROOTS, CONTEXTS, QUEUE] = [0x1000, 0x2000, 0x3000];

describe('an emulator that sees its guest store', () => {
  /** What is stored and told; the context entry is filled in the order the test says. */
  function contextEntry(...stores: readonly (readonly [offset: number, size: number, lo: number, hi: number])[]) {
    const record = new TraceRecorder('vtd');
    const { machine, unit } = plugged(true, record);
    const store = (gpa: number, size: number, lo: number, hi = 0) => {
      const bytes = new Uint8Array(size).map((_, i) => (i < 4 ? lo >>> (8 * i) : hi >>> (8 * (i - 4))) & 0xff);
      machine.vm.memory.guest.writeBytes(gpa, bytes);
      machine.stored(gpa, size, lo, hi);
    };
    enabled(unit, store);
    for (const [offset, ...rest] of stores) store(CONTEXTS + 16 * 8 + offset, ...rest);
    // What is no table is nobody's affair.
    for (let n = 0; n < 100; n++) store(0x8_0000 + 8 * n, 8, n);
    return { machine, record };
  }

  test('tells each, of any size and alignment, and the order counts', () => {
    const right = contextEntry([8, 8, 2 | (5 << 8), 0], [0, 8, 0x4001, 0]);
    expect(right.machine.findings()).toEqual([]);
    // P first, and in another 16 bytes of its own: what follows is of an entry that is in use.
    const wrong = contextEntry([0, 4, 0x4001, 0], [16, 8, 0, 1], [8, 8, 2 | (5 << 8), 0]);
    expect(wrong.machine.findings().map((f) => f.rule)).toEqual(['valid-before-filled']);
  });

  test('a store over the end of a word, or outside of RAM, is a store like others', () => {
    const { machine } = contextEntry([6, 8, 0, 2], [8, 4, 2 | (5 << 8), 0], [0, 4, 0x4001, 0]);
    machine.stored(0xf000_0000, 8, 1, 2);

    expect(machine.findings()).toEqual([]);
    expect(() => machine.stored(0, 9, 0)).toThrow(/1 to 8 bytes/);
    expect(() => machine.stored(0, 1.5, 0)).toThrow(/1 to 8 bytes/);
  });

  test('its recording has the stores to tables, in their order, and no others', () => {
    const { record } = contextEntry([8, 8, 0x502, 0], [0, 8, 0x4001, 0]);
    const of = { cmdline: '', guestKernel: '', scenario: '', mmio: { base: 0, size: 0x1000 }, ram: [], devices: [] };
    const events = record
      .text(of)
      .trim()
      .split('\n')
      .slice(1)
      .map((line) => JSON.parse(line));

    expect(events.filter((e) => e.t === 'st')).toMatchObject([
      { gpa: '0x2088', val: '0x502' },
      { gpa: '0x2080', val: '0x4001' },
    ]);
    expect(new Set(events.flatMap((e) => (e.t === 'page' ? [e.kind] : [])))).toEqual(new Set(['told']));
  });
});

test('a machine that is reset says so in its recording', () => {
  const record = new TraceRecorder('vtd');
  const { machine } = plugged(false, record);
  machine.reset();

  const of = { cmdline: '', guestKernel: '', scenario: '', mmio: { base: 0, size: 0x1000 }, ram: [], devices: [] };
  expect(record.text(of)).toMatch(/"t":"reset"/);
});

test('a qtest client is judged as the driver it plays', () => {
  const args = parseQemuArgs('-machine q35 -m 64 -device intel-iommu');
  const machine = createQemuMachine(args, { nic: false, vga: true });
  const place = { iommu: 'vtd' as const, base: 0xfed9_0000, bytes: 0x1000, ram: [{ gpa: 0, size: 64 << 20 }] };
  const target = new SanitizedTarget(machine, machine.map!, place);
  const session = new QtestSession(target);
  const say = (line: string) => session.execute(line);

  say('writeq 0xfed90090 0x200000');
  say('writel 0xfed90018 0x04000000');
  expect(say('readl 0xfed9001c')).toBe('OK 0x0000000004000000');
  say('writeq 0x200000 0x12');
  say('writeq 0xfed90090 0x300000');

  expect(target.judge.findings().map((f) => f.rule)).toEqual(['base-changed-while-enabled']);
});
