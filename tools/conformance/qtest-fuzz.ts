/**
 * Differences between our machines and a real QEMU, found by chance: recorded transcripts with a few bits changed are sent
 * to both. `node dist/tools/conformance/qtest-fuzz.js --qemu 'qemu-system-{arch}' --kind smmuv3 --runs 100 --seed 1`
 *
 * QEMU stops itself on some of these (assertions on values no driver writes); such runs are skipped. Replies behind a
 * withheld invalidation may differ rightfully: look at each difference before believing it.
 *
 * `--shard I/N --results FILE` does every N-th run; `viommu merge` tells what all of them came to.
 */
import { parseArgs } from 'node:util';
import { writeResults } from '../shard/results.ts';
import { belongs, parseShard, WHOLE } from '../shard/shard.ts';
import { flipped, mutable, ours, type QtestKind, theirs, transcript, transcripts } from './qtest-pair.ts';
import { type QtestPiece, QtestReport } from './qtest-report.ts';

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
      shard: { type: 'string' },
      results: { type: 'string' },
    },
  });
  const kind: QtestKind = values.kind === 'vtd' ? 'vtd' : 'smmuv3';
  const chance = new Chance(Number(values.seed) * 7919);
  const names = transcripts(kind).filter((n) => n.includes(values.only));
  const shard = values.shard === undefined ? WHOLE : parseShard(values.shard);
  const report = new QtestReport({ json: false, out: (line) => console.log(line) });
  const done: QtestPiece[] = [];
  const came = (piece: QtestPiece) => {
    done.push(piece);
    report.add(piece);
  };
  for (let run = 0; run < Number(values.runs); run++) {
    const name = names[chance.below(names.length)]!;
    const recorded = transcript(kind, name);
    const args = recorded.args.map((a) => (values.iommu !== '' && a.startsWith('intel-iommu') ? values.iommu : a));
    const changedOne = { ...recorded, args };
    const requests = changedOne.exchanges.map((x) => x.request);
    const places = requests.flatMap((r, i) => (mutable(kind, r) ? [i] : []));
    if (places.length === 0) {
      if (belongs(shard, run)) came({ n: run, name, came: 'same', lines: [] });
      continue;
    }
    const changed: number[] = [];
    for (let n = 0; n <= chance.below(4) >> 1; n++) {
      const at = places[chance.below(places.length)]!;
      requests[at] = flipped(requests[at]!, chance.below(64));
      changed.push(at);
    }
    // What is changed is drawn for every run, so that each is the same whoever does it.
    if (!belongs(shard, run)) continue;
    const want = await theirs(values.qemu, changedOne, requests);
    if (want.length < requests.length) {
      came({ n: run, name, came: 'skipped', lines: [] });
      continue;
    }
    const got = ours(changedOne, requests);
    const at = requests.flatMap((_, i) => (got[i] !== want[i] && !changedOne.exchanges[i]!.stale ? [i] : []));
    const lines = [
      `run ${run} ${name}: ${changed.map((i) => `[${i}] ${changedOne.exchanges[i]!.request} => ${requests[i]}`).join('; ')}`,
      ...at.slice(0, 3).map((i) => `    [${i}] ${requests[i]}: QEMU ${want[i]}, ours ${got[i]}`),
    ];
    if (at.length === 0) came({ n: run, name, came: 'same', lines: [] });
    else came({ n: run, name, came: 'different', lines });
  }
  report.end();
  if (values.results === undefined) return;
  const { qemu, only, runs, seed, iommu } = values;
  const campaign = { qemu, kind, only, runs: Number(runs), seed: Number(seed), iommu };
  await writeResults(values.results, { verb: 'conformance:qtest', campaign, pieces: Number(runs), shard, done });
}

await main();
