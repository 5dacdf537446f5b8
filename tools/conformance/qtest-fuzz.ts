/**
 * Differences between our machines and a real QEMU, found by chance: recorded transcripts with a few bits changed are sent
 * to both. `node dist/tools/conformance/qtest-fuzz.js --qemu 'qemu-system-{arch}' --kind smmuv3 --runs 100 --seed 1`
 *
 * QEMU stops itself on some of these (assertions on values no driver writes); such runs are skipped. Replies behind a
 * withheld invalidation may differ rightfully: look at each difference before believing it.
 */
import { parseArgs } from 'node:util';
import { flipped, mutable, ours, type QtestKind, theirs, transcript, transcripts } from './qtest-pair.ts';

/** The same sequence for the same seed. */
class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 1;
  }

  below(n: number): number {
    let s = this.#state;
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    this.#state = s;
    return (s >>> 0) % n;
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      qemu: { type: 'string', default: 'qemu-system-{arch}' },
      kind: { type: 'string', default: 'smmuv3' },
      only: { type: 'string', default: '' },
      runs: { type: 'string', default: '100' },
      seed: { type: 'string', default: '1' },
      // In the place of what the transcripts ask for, e.g. intel-iommu,caching-mode=on,aw-bits=39.
      iommu: { type: 'string', default: '' },
    },
  });
  const kind: QtestKind = values.kind === 'vtd' ? 'vtd' : 'smmuv3';
  const chance = new Chance(Number(values.seed) * 7919);
  const names = transcripts(kind).filter((n) => n.includes(values.only));
  let different = 0;
  let skipped = 0;
  for (let run = 0; run < Number(values.runs); run++) {
    const name = names[chance.below(names.length)]!;
    const recorded = transcript(kind, name);
    const args = recorded.args.map((a) => (values.iommu !== '' && a.startsWith('intel-iommu') ? values.iommu : a));
    const changedOne = { ...recorded, args };
    const requests = changedOne.exchanges.map((x) => x.request);
    const places = requests.flatMap((r, i) => (mutable(kind, r) ? [i] : []));
    if (places.length === 0) continue;
    const changed: number[] = [];
    for (let n = 0; n <= chance.below(4) >> 1; n++) {
      const at = places[chance.below(places.length)]!;
      requests[at] = flipped(requests[at]!, chance.below(64));
      changed.push(at);
    }
    const want = await theirs(values.qemu, changedOne, requests);
    if (want.length < requests.length) {
      skipped++;
      continue;
    }
    const got = ours(changedOne, requests);
    const at = requests.flatMap((_, i) => (got[i] !== want[i] && !changedOne.exchanges[i]!.stale ? [i] : []));
    if (at.length === 0) continue;
    different++;
    console.log(
      `run ${run} ${name}: ${changed.map((i) => `[${i}] ${changedOne.exchanges[i]!.request} => ${requests[i]}`).join('; ')}`,
    );
    for (const i of at.slice(0, 3)) console.log(`    [${i}] ${requests[i]}: QEMU ${want[i]}, ours ${got[i]}`);
  }
  console.log(`${values.runs} runs, ${different} different, ${skipped} skipped`);
}

await main();
