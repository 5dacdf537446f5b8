import { describe, expect, test } from 'vitest';
import { vtdDefaults } from '../../../devices/vtd/properties.ts';
import { ViommuError } from '../../../src/core/errors.ts';
import type { IommufdFile } from '../../../src/host/iommufd/file.ts';
import { ramBacking } from '../../../src/lib/memory/address-space.ts';
import type { MakeUnit } from '../../../src/machine/machine-plan.ts';
import { PluggedMachine } from '../../../src/machine/plugged-machine.ts';
import { Vm } from '../../../src/machine/vm.ts';
import { VtdUnit } from '../../../src/machine/vtd-unit.ts';
import { CountingMemory, hostState } from '../../host/failures/state.ts';
import { Rig } from '../plugged/rig.ts';

const BYTES = 0x4000;
const RAM = [0x4000_0000, 0x5000_0000, 0x6000_0000].map((base) => ({ base, bytes: BYTES }));
const NOBODY = new CountingMemory();

/** What the host has for a VM. Looking takes an id and gives it back: nothing fails for that. */
function state(vm: Vm): string {
  const { failures, hostMemory } = vm;
  hostMemory.failures = null;
  const found = hostState(vm.iommufd as IommufdFile, hostMemory, NOBODY, []);
  hostMemory.failures = failures;
  return `${found} ${hostMemory.space.ram().length}`;
}

function refused(make: () => unknown): ViommuError {
  try {
    make();
  } catch (error) {
    expect(error).toBeInstanceOf(ViommuError);
    return error as ViommuError;
  }
  throw new Error('nothing was refused');
}

describe('failures of a VM beside another one', () => {
  test.each([false, true])('are refused (the first has some: %s), and the shared host goes on as before', (chosen) => {
    const first = new Vm({ ram: RAM, ...(chosen ? { failures: { seed: 1 } } : {}) });
    const before = [first.failures, first.hostMemory.failures, state(first)];
    const error = refused(
      () => new Vm({ ram: RAM, beside: first, failures: { seed: 2, memory: 1, construction: true } }),
    );
    expect([error.code, error.message]).toEqual(['EINVAL', expect.stringMatching(/`failures`.*`beside`/)]);
    expect([first.failures, first.hostMemory.failures, state(first)]).toEqual(before);
    // Nothing fails at the first VM, and a second one has what the first one has.
    first.addRam(0x7000_0000, BYTES);
    expect(new Vm({ ram: RAM, beside: first }).failures).toBe(first.failures);
  });
});

describe('a VM that cannot be made, because steps fail by chance', () => {
  test('beside another one leaves nothing at the shared host, and says what failed first', () => {
    const seen = new Set<string>();
    let made = 0;
    for (let seed = 1; seed <= 300; seed++) {
      const first = new Vm({ ram: RAM.slice(0, 1), failures: { seed, memory: 0.12 } });
      const before = state(first);
      try {
        new Vm({ ram: RAM, beside: first });
        made++;
        continue;
      } catch (error) {
        expect(error).toBeInstanceOf(ViommuError);
        seen.add((error as ViommuError).message);
      }
      expect([seed, state(first)]).toEqual([seed, before]);
      // It was the way back alone that was spared: steps of the first VM fail as before.
      expect([seed, first.failures!.on]).toEqual([seed, true]);
      first.failures!.on = false;
      new Vm({ ram: RAM, beside: first });
    }
    expect([...seen].sort()).toEqual([expect.stringMatching('IOAS_ALLOC'), expect.stringMatching('IOAS_MAP')]);
    expect(made).toBeGreaterThan(10);
    expect(made).toBeLessThan(290);
  });
});

describe('the way back of a VM that cannot be made', () => {
  test('asks for no verb that could fail in its turn: the first error is told, and nothing stays', () => {
    const first = new Vm({
      ram: RAM,
      tell: (said) => {
        if (said.what === 'host' && said.verb === 'IOAS_UNMAP') throw new Error('a second error');
      },
    });
    const before = state(first);
    const ram = [...RAM, { base: RAM[1]!.base + 4096, bytes: 4096 }];
    expect(refused(() => new Vm({ ram, beside: first })).code).toBe('EBUSY');
    expect(state(first)).toBe(before);
  });

  test('of a machine does not reach what its emulator had claimed when the emulator refused another window', () => {
    const claimed: number[] = [];
    const no = new Error('no such window');
    const ram = [{ base: RAM[0]!.base, bytes: BYTES, backing: ramBacking(BYTES) }];
    const emulator = {
      ram,
      interrupts: { line() {}, message() {} },
      claim(base: number) {
        if (claimed.length === 1) throw no;
        claimed.push(base);
      },
    };
    const plan = {
      iommu: 0x1000_0000,
      ecam: { base: 0x2000_0000, buses: 1 },
      doorbell: { base: 0xfee0_0000, bytes: 4096 },
      failures: { seed: 1 },
    };
    const make: MakeUnit = (vm, irq, tell) =>
      new VtdUnit(vm, { name: 'vtd', properties: vtdDefaults('arch'), irq, tell });
    expect(() => new PluggedMachine(emulator, plan, make)).toThrow(no);
    expect(claimed).toEqual([plan.iommu]);
  });
});

describe('the moment from which on steps fail', () => {
  test('of a VM made by hand is when its constructor returns', () => {
    const vm = new Vm({ ram: RAM, failures: { seed: 1, memory: 1 } });
    expect(vm.failures!.counts().memory.asked).toBe(0);
    expect(refused(() => vm.addRam(0x7000_0000, BYTES)).code).toBe('EIO');
    expect(refused(() => new Vm({ ram: RAM, failures: { seed: 1, memory: 1, construction: true } })).code).toBe('EIO');
  });

  test('of a machine is when it is whole, unless its construction counts', () => {
    const { vm } = new Rig('vtd', { failures: { seed: 1, memory: 1, ids: 1, commands: 1, fetches: 1 } }).machine;
    expect([vm.failures!.on, vm.failures!.last]).toEqual([true, null]);
    expect(refused(() => vm.addRam(0x7000_0000, BYTES, ramBacking(BYTES))).code).toBe('EIO');
    const failures = { seed: 1, nth: 1, construction: true };
    expect(refused(() => new Rig('vtd', { failures })).code).toBe('EIO');
  });
});
