import { readStage1, readStage2 } from '../../../src/lib/walk/vmsa-regime.ts';
import { Random } from '../../oracle/random.ts';
import { Finding, type FuzzTarget, type Plant } from '../target.ts';
import { fillWithDescriptors, VmsaComparison, vmsaCase } from '../walks/smmuv3.ts';
import { compareVtdWalks } from '../walks/vtd.ts';

const VMSA = ['stage1', 'stage2', 'nested'] as const;
const VTD = ['first', 'second', 'nested', 'pass-through'] as const;

/** ['smmuv3', mode, seed, accesses] or ['vtd', kind, seed, requests] */
function differs(step: readonly (string | number)[], fill: number, plant: Plant): string | null {
  const [iommu, mode, seed, count] = step;
  const answer = (text: string): string => plant('answer', text);
  if (iommu === 'vtd') {
    const kind = VTD[Number(mode) % VTD.length]!;
    return compareVtdWalks(Number(seed), kind, Number(count), { seen: new Map(), plant: answer });
  }
  const bench = memoryOf(fill);
  const rnd = new Random(Number(seed));
  const c = vmsaCase(rnd);
  readStage1(bench.s1, c.cd, 0, c.oas);
  readStage2(bench.s2, c.ste, 0, c.oas, true);
  for (let n = 0; n < Number(count); n++) {
    const different = bench.one(rnd, c, VMSA[Number(mode) % VMSA.length]!, answer);
    if (different !== null) return different;
  }
  return null;
}

let filled: { readonly fill: number; readonly bench: VmsaComparison } | null = null;

/** Walks of an SMMUv3 change nothing in memory: one that was filled serves all inputs of its seed. */
function memoryOf(fill: number): VmsaComparison {
  if (filled?.fill === fill) return filled.bench;
  const bench = new VmsaComparison();
  fillWithDescriptors(bench.memory, new Random(fill));
  filled = { fill, bench };
  return bench;
}

/** Both walkers against slow ones that were written apart from them. */
export const tablesTarget: FuzzTarget = {
  name: 'tables',
  summary: 'random tables, structures and accesses: the walkers answer as slow ones from the text of the architectures',
  length: 30,
  generate(rnd, length) {
    const steps = Array.from({ length }, () => {
      const seed = rnd.next() >>> 1;
      const iommu = rnd.chance(50) ? 'smmuv3' : 'vtd';
      return [iommu, rnd.below(iommu === 'vtd' && rnd.chance(95) ? 3 : 4), seed, 50] as const;
    });
    // Few memories for many inputs: filling one costs more than walking it.
    return { config: { fill: 1 + rnd.below(4) }, steps };
  },
  run(input, plant) {
    for (const step of input.steps) {
      const different = differs(step, Number(input.config.fill), plant);
      if (different !== null) throw new Finding(`the walkers of ${step[0]} differ\n${different}`);
    }
    return {};
  },
};
