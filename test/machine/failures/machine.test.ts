import { describe, expect, test } from 'vitest';
import { DmaEngine } from '../../../devices/endpoints/dma-engine.ts';
import { smmuv3Defaults } from '../../../devices/smmuv3/properties.ts';
import { vtdDefaults } from '../../../devices/vtd/properties.ts';
import { ViommuError } from '../../../src/core/errors.ts';
import type { IommufdFile } from '../../../src/host/iommufd/file.ts';
import type { FailureOptions } from '../../../src/lib/inject/failure-options.ts';
import { ramBacking } from '../../../src/lib/memory/address-space.ts';
import { parseQemuArgs } from '../../../src/lib/qemu-args/qemu-args.ts';
import { PluggedMachine } from '../../../src/machine/plugged-machine.ts';
import { createQemuMachine } from '../../../src/machine/qemu-machine.ts';
import { Smmuv3Unit } from '../../../src/machine/smmuv3-unit.ts';
import { Vm } from '../../../src/machine/vm.ts';
import { VtdUnit } from '../../../src/machine/vtd-unit.ts';
import { CountingMemory, hostState } from '../../host/failures/state.ts';

const KINDS = ['smmuv3', 'vtd'] as const;
type Kind = (typeof KINDS)[number];
const RAM = 0x4000_0000;
const MORE = 0x5000_0000;
const BYTES = 0x4000;
const DOORBELL = 0x0809_0000;
/** Nothing of the guest's RAM is pinned piece by piece: the process has no part in the state. */
const NOBODY = new CountingMemory();
const QUIET: FailureOptions = { seed: 1 };

/** An emulator, and what was claimed of it. */
class Claims {
  readonly claimed: number[] = [];
  readonly errors: unknown[] = [];

  machine(kind: Kind, failures: FailureOptions): PluggedMachine {
    return new PluggedMachine(
      {
        ram: [{ base: RAM, bytes: BYTES, backing: ramBacking(BYTES) }],
        claim: (base) => this.claimed.push(base),
        interrupts: { line() {}, message() {} },
        defer: (action) => action(),
        report: (error) => this.errors.push(error),
      },
      {
        iommu: 0x1000_0000,
        ecam: { base: 0x2000_0000, buses: 2 },
        pci: { base: 0x3000_0000, bytes: 0x8000 },
        doorbell: { base: DOORBELL, bytes: 4096 },
        failures,
      },
      (vm, irq, tell) =>
        kind === 'smmuv3'
          ? new Smmuv3Unit(vm, {
              name: kind,
              properties: { ...smmuv3Defaults('arch'), stage: 'nested', ats: true, ssidsize: 8 },
              irq,
              tell,
              doorbell: DOORBELL,
            })
          : new VtdUnit(vm, {
              name: kind,
              properties: { ...vtdDefaults('arch'), scalableMode: true, fsts: true, pasidBits: 8, deviceIotlb: true },
              irq,
              tell,
            }),
    );
  }
}

const engine = (): DmaEngine => new DmaEngine({ integrated: true });

/** Everything that an operation which fails must leave as it was. */
function snapshot(m: PluggedMachine): string {
  const { vm } = m;
  const ram = vm.memory.guest.ram().map(({ base, bytes }) => [base, bytes]);
  const host = hostState(vm.iommufd as IommufdFile, vm.hostMemory, NOBODY, []);
  const slots = [...m.complex.slots()].map((s) => [s.fn.name, s.devfn]);
  const all = JSON.stringify({ host, ram, placed: vm.memory.ram(), slots, windows: vm.memory.roomAt(MORE) });
  // Where the host has guest RAM is its own affair: only that it is somewhere.
  return all.replaceAll(/\b\d{13}\b/g, 'hpa');
}

type Operation = readonly [what: string, run: (m: PluggedMachine) => unknown];

const OPERATIONS: readonly Operation[] = [
  ['add RAM', (m) => m.vm.addRam(MORE, BYTES)],
  ['show a window', (m) => m.vm.addWindow(MORE, 4096, { name: 'w', read: () => 0, write: () => {} })],
];

describe.each(KINDS)('%s: when the n-th internal step fails, for every n', (kind) => {
  test('while a machine is made: nothing is claimed of the emulator, and an error says why', () => {
    let refused = 0;
    for (let n = 1; ; n++) {
      expect(n).toBeLessThan(2000);
      const claims = new Claims();
      try {
        const m = claims.machine(kind, { seed: 1, nth: n, construction: true });
        const failed = Object.values(m.vm.failures!.counts()).reduce((sum, c) => sum + c.failed, 0);
        if (failed > 0) continue;
        expect(claims.claimed.length).toBe(3);
        break;
      } catch (error) {
        expect(error).toBeInstanceOf(ViommuError);
        expect([n, claims.claimed]).toEqual([n, []]);
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(6);
  });

  test.each(OPERATIONS)('%s: it is done, or nothing is', (what, run) => {
    let refused = 0;
    for (let n = 1; ; n++) {
      expect(n).toBeLessThan(2000);
      const claims = new Claims();
      const m = claims.machine(kind, QUIET);
      m.plug(engine().fn, 0x10);
      const before = snapshot(m);
      const plan = m.vm.failures!.nth(n);
      let error: unknown = null;
      try {
        run(m);
      } catch (e) {
        error = e;
      }
      m.vm.failures!.on = false;
      expect(claims.errors).toEqual([]);
      if (error !== null) {
        expect(error).toBeInstanceOf(ViommuError);
        expect([what, n, plan.failed, snapshot(m)]).toEqual([what, n, plan.failed, before]);
        refused++;
        // The same machine can do it now.
        run(m);
      }
      const done = snapshot(m);
      const never = new Claims().machine(kind, QUIET);
      never.plug(engine().fn, 0x10);
      run(never);
      // Nothing of these waits for a first use.
      expect([what, n, done]).toEqual([what, n, snapshot(never)]);
      if (plan.failed === null) break;
    }
    expect(refused).toBeGreaterThan(2);
  });

  test('while a second VM comes to the same host: nothing of it stays there', () => {
    const first = new Claims().machine(kind, QUIET).vm;
    const state = () => `${hostState(first.iommufd as IommufdFile, first.hostMemory, NOBODY, [])}`;
    const before = state();
    const ram = [
      { base: RAM, bytes: BYTES },
      { base: MORE, bytes: BYTES },
    ];
    let refused = 0;
    for (let n = 1; ; n++) {
      const plan = first.failures!.nth(n);
      let made = false;
      try {
        new Vm({ ram, beside: first });
        made = true;
      } catch (error) {
        expect(error).toBeInstanceOf(ViommuError);
        refused++;
        expect([n, state(), first.hostMemory.space.ram().length]).toEqual([n, before, 2]);
      }
      if (plan.failed === null) {
        expect(made).toBe(true);
        break;
      }
    }
    expect(refused).toBeGreaterThan(4);
  });
});

test.each([
  '-M virt,iommu=smmuv3 -m 64',
  '-machine q35 -m 64 -device intel-iommu,device-iotlb=on -device iommu-testdev',
])('a QEMU machine (%s) is made whole, or an error says why, whatever the n-th step is', (line) => {
  let refused = 0;
  for (let n = 1; ; n++) {
    const failures = { seed: 1, nth: n, construction: true };
    try {
      const m = createQemuMachine(parseQemuArgs(line), { nic: false, vga: false, failures });
      if (Object.values(m.vm!.failures!.counts()).every((c) => c.failed === 0)) break;
    } catch (error) {
      expect(error).toBeInstanceOf(ViommuError);
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(10);
});
