import { execFileSync } from 'node:child_process';
import { ours, type QtestKind, theirs, transcript, transcripts } from '../../conformance/qtest-pair.ts';
import { type Asked, apply, change } from '../qtest-changes.ts';
import { Finding, type FuzzTarget } from '../target.ts';

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
  summary:
    'recorded transcripts with stores changed, dropped, doubled and swapped, on our machines and on an installed QEMU 11.1: the same replies',
  length: 3,
  missing,
  generate(rnd, length) {
    const kind = rnd.chance(50) ? 'smmuv3' : 'vtd';
    const steps = Array.from({ length: 1 + rnd.below(length) }, () => change(rnd));
    return { config: { kind, name: rnd.pick(transcripts(kind)) }, steps };
  },
  async run(input, plant) {
    const kind = input.config.kind as QtestKind;
    const recorded = transcript(kind, String(input.config.name));
    const list: Asked[] = recorded.exchanges.map(({ request, stale }) => ({ request, stale: stale === true }));
    for (const s of input.steps) apply(kind, list, s);
    const requests = list.map((a) => a.request);
    const want = await plant('qemu', theirs)(QEMU, recorded, requests);
    // QEMU ends itself on values that no driver writes.
    if (want.length < requests.length) return {};
    const got = ours(recorded, requests);
    const at = requests.findIndex((_, i) => got[i] !== want[i] && !list[i]!.stale);
    if (at < 0) return {};
    // What a cache holds is nobody's business where the guest has changed a table: the one may know an entry that the other has
    // given up, as an SMMU gives up global entries with those of any ASID (IHI 0070 §4.4.1) and QEMU does not.
    for (const caches of ['keeping', 'forgetting'] as const)
      if (ours(recorded, requests.slice(0, at + 1), caches)[at] === want[at]) return {};
    throw new Finding(`QEMU answers otherwise\n[${at}] ${requests[at]}: QEMU ${want[at]}, ours ${got[at]}`);
  },
};
