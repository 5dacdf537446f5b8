import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ViommuError } from '../../../src/core/errors.ts';
import { MACHINES as DRIVEN, MachineGuest } from '../dma-machines.ts';
import { SMMUV3_WRITERS, VTD_WRITERS } from '../dma-writers.ts';
import { MACHINES, type Saver } from './makers.ts';

// States as they were saved by each version of the form, one folder for each: they keep loading. After a change of the form:
// VIOMMU_SAVED=write npx vitest run test/machine/saved/fixtures.test.ts

const VERSION = 2;
const FOLDER = join(import.meta.dirname, `v${VERSION}`);
const WRITE = process.env.VIOMMU_SAVED === 'write';

/** A machine, and what was done to it before it was saved. */
interface Fixture {
  readonly name: string;
  make(): { readonly machine: Saver; run(): void };
}

const FIXTURES: readonly Fixture[] = [
  ...MACHINES.map(([name, make]) => ({ name, make: () => ({ machine: make(), run: () => {} }) })),
  ...DRIVEN.map((kind) => ({
    name: `${kind.name}, driven`,
    make: () => {
      const guest = new MachineGuest(kind);
      const { machine, vm } = guest.reached;
      const run = () => {
        for (const w of kind.kind === 'smmuv3' ? SMMUV3_WRITERS : VTD_WRITERS) w.run(guest, kind.ram + 0x80_0000);
        vm.clock.settle();
      };
      return { machine, run };
    },
  })),
];

const fileOf = (name: string): string => join(FOLDER, `${name.replaceAll(/[^a-z0-9]+/gi, '-')}.state`);
const plain = (state: unknown): unknown => JSON.parse(JSON.stringify(state));

describe(`states of version ${VERSION}`, () => {
  test.each(FIXTURES)('$name: loads, and is saved again as it was', ({ name, make }) => {
    const file = fileOf(name);
    if (WRITE) {
      const { machine, run } = make();
      run();
      // Virtual functions come to life again in a load, behind the others.
      machine.load(plain(machine.save()) as never);
      mkdirSync(FOLDER, { recursive: true });
      writeFileSync(file, `${JSON.stringify(machine.save())}\n`);
    }
    expect(existsSync(file)).toBe(true);
    const state = JSON.parse(readFileSync(file, 'utf8')) as unknown;
    const { machine } = make();
    machine.load(state as never);
    expect(plain(machine.save())).toEqual(state);
  });

  test('there are no others', () => {
    expect(readdirSync(FOLDER).sort()).toEqual(
      FIXTURES.map(({ name }) => fileOf(name).slice(FOLDER.length + 1)).sort(),
    );
  });

  test('one of another version is refused with the version that can be loaded', () => {
    const { machine } = FIXTURES[0]!.make();
    const text = readFileSync(fileOf(FIXTURES[0]!.name), 'utf8').replace(`"version":${VERSION}`, '"version":1');
    const before = plain(machine.save());
    const load = () => machine.load(JSON.parse(text) as never);
    expect(load).toThrow(ViommuError);
    expect(load).toThrow(new RegExp(`this package loads version ${VERSION}.*version.*found=1`));
    expect(plain(machine.save())).toEqual(before);
  });
});
