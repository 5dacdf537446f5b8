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

const PLACE = { iommu: 0x1000_0000, doorbell: { base: 0xfee0_0000, bytes: 0x10_0000 } };
const GCMD = 0x18;
const GSTS = 0x1c;

function plugged(sanitize: boolean): { machine: PluggedMachine; unit: MmioDevice } {
  const windows = new Map<number, MmioDevice>();
  const machine = new PluggedMachine(
    {
      ram: [{ base: 0, bytes: 0x10_0000, backing: ramBacking(0x10_0000) }],
      claim: (base, window) => void windows.set(base, window),
      interrupts: { line() {}, message() {} },
    },
    { ...PLACE, ...(sanitize ? { sanitize: 'vtd' as const } : {}) },
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
