import { execFileSync } from 'node:child_process';
import {
  flipped,
  mutable,
  ours,
  type QtestKind,
  theirs,
  transcript,
  transcripts,
} from '../../conformance/qtest-pair.ts';
import { Finding, type FuzzTarget, type Step } from '../target.ts';

/** A path with `{arch}` in the place of `aarch64` or `x86_64`. */
const QEMU = process.env.VIOMMU_QEMU ?? 'qemu-system-{arch}';
const VERSION = [11, 1] as const;

let answer: string | null | undefined;

/** Why QEMU is not there; null: it is, and it is as new as the profile. */
function missing(): string | null {
  if (answer !== undefined) return answer;
  try {
    const said = execFileSync(QEMU.replaceAll('{arch}', 'x86_64'), ['--version'], { encoding: 'utf8', stdio: 'pipe' });
    const [, major, minor] = /version (\d+)\.(\d+)/.exec(said) ?? [];
    const found = [Number(major), Number(minor)] as const;
    const old = found[0] < VERSION[0] || (found[0] === VERSION[0] && found[1] < VERSION[1]);
    answer = old ? `QEMU ${found.join('.')} is older than the profile's ${VERSION.join('.')}` : null;
  } catch {
    answer = `no ${QEMU} (VIOMMU_QEMU says where it is)`;
  }
  return answer;
}

/** Our profile `qemu-11.1` and QEMU itself, by qtest. */
export const qemuTarget: FuzzTarget = {
  name: 'qemu',
  summary: 'recorded transcripts with bits flipped, on our machines and on an installed QEMU 11.1: the same replies',
  length: 2,
  missing,
  generate(rnd, length) {
    const kind = rnd.chance(50) ? 'smmuv3' : 'vtd';
    const steps = Array.from({ length }, (): Step => ['flip', rnd.next() >>> 1, rnd.below(64)]);
    return { config: { kind, name: rnd.pick(transcripts(kind)) }, steps };
  },
  async run(input) {
    const kind = input.config.kind as QtestKind;
    const recorded = transcript(kind, String(input.config.name));
    const requests = recorded.exchanges.map((x) => x.request);
    const places = requests.flatMap((r, i) => (mutable(kind, r) ? [i] : []));
    if (places.length === 0) return {};
    for (const [, place, bit] of input.steps) {
      const at = places[Number(place) % places.length]!;
      requests[at] = flipped(requests[at]!, Number(bit));
    }
    const want = await theirs(QEMU, recorded, requests);
    // QEMU ends itself on values that no driver writes.
    if (want.length < requests.length) return {};
    const got = ours(recorded, requests);
    const at = requests.findIndex((_, i) => got[i] !== want[i] && !recorded.exchanges[i]!.stale);
    if (at < 0) return {};
    // Behind a withheld invalidation replies may differ rightfully: look at it before believing it.
    throw new Finding(`QEMU answers otherwise\n[${at}] ${requests[at]}: QEMU ${want[at]}, ours ${got[at]}`);
  },
};
