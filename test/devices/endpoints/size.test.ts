import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import { Untranslated } from '../../../bus/iommu-ports.ts';
import { RootComplex } from '../../../bus/root-complex.ts';
import { DmaEngine } from '../../../devices/endpoints/dma-engine.ts';
import { AddressSpace, ramBacking } from '../../../src/lib/memory/address-space.ts';
import { EXT } from '../../../src/spec/pcie/capabilities.ts';
import { Answering } from '../../../tools/bench/answering.ts';

const RAM = 0x10_0000;
const ROOTS = 16;
const FUNCTIONS = 256;
const PASIDS = 16;
const ENTRIES = 64;

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Bytes alive: objects, and array contents outside the heap. */
function alive(): number {
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

test('4,096 functions with full ATCs of 16 PASIDs × 64 entries live in 512 MiB', () => {
  const before = alive();
  const memory = new AddressSpace();
  memory.addRam(RAM, 0x4_0000, ramBacking(0x4_0000));
  const complex = new RootComplex({ memory, irq: null, clock: null });
  const into = new Uint8Array(4);
  const engines: DmaEngine[] = [];
  for (let n = 0; n < ROOTS; n++) {
    const root = complex.addRoot(n, { translate: new Untranslated(), ats: new Answering(RAM), remap: null });
    for (let devfn = 0; devfn < FUNCTIONS; devfn++) {
      const engine = new DmaEngine({ atc: PASIDS * ENTRIES, integrated: true });
      complex.plug(root.bus, devfn, engine.fn);
      const { config } = engine.fn;
      complex.configWrite(n, devfn, 4, 2, 6);
      complex.configWrite(n, devfn, config.findExtended(EXT.PASID) + 6, 2, 1);
      complex.configWrite(n, devfn, config.findExtended(EXT.ATS) + 6, 2, 0x8000);
      engines.push(engine);
    }
  }
  for (const { fn } of engines) {
    const { atc } = fn.memory;
    // PASIDs share the sets: some of the 64 pages of each take another's place, so it goes on until nothing is empty.
    for (let page = 0; atc.used < PASIDS * ENTRIES; page += ENTRIES)
      for (let p = 0; p < ENTRIES; p++)
        for (let pasid = 1; pasid <= PASIDS; pasid++) fn.memory.read(pasid, (page + p) << 12, 0, into, 0, 4);
  }
  const bytes = alive() - before;
  expect(engines.reduce((sum, { fn }) => sum + fn.memory.atc.used, 0)).toBe(ROOTS * FUNCTIONS * PASIDS * ENTRIES);
  expect(bytes).toBeLessThan(512 * 2 ** 20);
  // The entries themselves are 80 MiB: a number below says nothing was measured.
  expect(bytes).toBeGreaterThan(80 * 2 ** 20);
});
