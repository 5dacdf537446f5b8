import { smmuv3Defaults } from '../../../devices/smmuv3/properties.ts';
import { vtdDefaults } from '../../../devices/vtd/properties.ts';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { Smmuv3Unit } from '../../../src/machine/smmuv3-unit.ts';
import { Vm } from '../../../src/machine/vm.ts';
import { VtdUnit } from '../../../src/machine/vtd-unit.ts';
import type { InterruptPort } from '../../../src/ports/irq.ts';
import { OP } from '../../../src/spec/smmuv3/commands.ts';
import type { BenchCase, Prepared, SampledCase } from '../case.ts';
import { RID } from '../guests/machine.ts';
import { Smmuv3Guest } from '../guests/smmuv3.ts';
import { VtdGuest } from '../guests/vtd.ts';
import { bytesEach } from '../parts/alive.ts';

const irq: InterruptPort = { pulse() {}, level() {}, message: () => true };
const RAM = [{ base: 0, bytes: 4096 }];

const smmu = () => {
  const vm = new Vm({ ram: RAM });
  return new Smmuv3Unit(vm, { name: 'smmuv3', properties: smmuv3Defaults('arch'), irq, doorbell: 0x0809_0000 });
};
const vtd = () => new VtdUnit(new Vm({ ram: RAM }), { name: 'vtd', properties: vtdDefaults(), irq });

/** One of many, with its VM and a page of RAM, which counts. */
function idle(name: string, make: () => unknown): SampledCase {
  return { path: 'scale', name, unit: 'B', samples: 3, sample: () => bytesEach(64, () => [null, make]) };
}

/** A function behind a unit. */
function functions(name: string, make: () => Smmuv3Unit | VtdUnit): SampledCase {
  const begin = () => {
    const unit = make();
    const one = (i: number) => unit.addFunction([i + 8], [hostRid(i + 8)], { name: `function ${i}` });
    return [unit, one] as const;
  };
  return { path: 'scale', name, unit: 'B', samples: 3, sample: () => bytesEach(1000, begin) };
}

/** A vIOMMU made, with eight functions. */
function built(make: () => Smmuv3Unit | VtdUnit): Prepared {
  return {
    ops: 8,
    run() {
      for (let n = 0; n < 8; n++) {
        const unit = make();
        for (let rid = 8; rid < 16; rid++) unit.addFunction([rid], [hostRid(rid)], { name: `function ${rid}` });
      }
    },
  };
}

interface Turn {
  touch(page: number): void;
}

/** Guests in turn: each invalidates a page, waits, and uses it again. */
function inTurn<G extends Turn>(count: number, make: () => G, unmap: (g: G, page: number) => void): Prepared {
  const guests = Array.from({ length: count }, make);
  for (const g of guests) for (let page = 0; page < 16; page++) g.touch(page);
  let n = 0;
  return {
    ops: 256,
    run() {
      for (let i = 0; i < 256; i++, n++) {
        const g = guests[n % count]!;
        const page = (n >> 4) & 15;
        unmap(g, page);
        g.touch(page);
      }
    },
  };
}

const smmuTurn = (n: number) =>
  inTurn(
    n,
    () => new Smmuv3Guest('1'),
    (g, page) => {
      g.tlbiPage(page);
      g.sync();
    },
  );
const vtdTurn = (n: number) =>
  inTurn(
    n,
    () => new VtdGuest('legacy'),
    (g, page) => {
      g.putPage(page);
      g.wait();
    },
  );

/** CFGI_STE of one stream among many. */
function streams(count: number): Prepared {
  const g = new Smmuv3Guest('1');
  g.touch(0);
  for (let i = 1; i < count; i++) {
    const sid = 256 + i;
    g.m.machine.unit.addFunction([sid], [hostRid(sid)], { name: `function ${sid}` });
  }
  return {
    ops: 64,
    run() {
      for (let n = 0; n < 64; n++) {
        g.put(OP.CFGI_STE, RID, 1, 0);
        g.sync();
        g.touch(0);
      }
    },
  };
}

/** What grows with the number of machines, functions and streams. */
export const SCALE: readonly BenchCase[] = [
  idle('an idle vSMMUv3 with its VM', smmu),
  idle('an idle vVT-d with its VM', vtd),
  functions('a function behind a vSMMUv3', smmu),
  functions('a function behind a vVT-d', vtd),
  { path: 'scale', name: 'a vSMMUv3 with 8 functions is built', setup: () => built(smmu) },
  { path: 'scale', name: 'a vVT-d with 8 functions is built', setup: () => built(vtd) },
  ...[1, 8, 32].map((n) => ({
    path: 'scale' as const,
    name: 'SMMUv3 TLBI_NH_VA, SYNC, used again, guests in turn',
    n,
    of: 'vIOMMUs',
    setup: () => smmuTurn(n),
  })),
  ...[1, 8, 32].map((n) => ({
    path: 'scale' as const,
    name: 'VT-d legacy: page, wait, used again, guests in turn',
    n,
    of: 'vIOMMUs',
    setup: () => vtdTurn(n),
  })),
  ...[1, 1000, 10_000].map((n) => ({
    path: 'scale' as const,
    name: 'SMMUv3 CFGI_STE, SYNC, used again',
    n,
    of: 'streams',
    setup: () => streams(n),
  })),
];
