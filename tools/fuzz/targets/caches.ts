import type { Shell } from '../../../devices/endpoints/shell.ts';
import { type Caches, DATA, ProgramMachine } from '../program-machine.ts';
import { Finding, type FuzzInput, type FuzzTarget, type Plant, type Step } from '../target.ts';

const DEVFNS = [0x10, 0x18] as const;
const SPACES = [-1, 3] as const;
const VA = 0x1234_0000;
const INPUTS = 6;
const PAGES = 24;

interface Mapping {
  readonly page: number;
  readonly writable: boolean;
}

/** Plays a program; each access is judged by a list of what is mapped. @returns what each access came to. */
function play(input: FuzzInput, caches: Caches, loads: boolean, plant: Plant): number[] {
  const kind = input.config.kind === 'vtd' ? 'vtd' : 'smmuv3';
  const m = new ProgramMachine(kind, caches, plant);
  const { guest } = m;
  const fns: Shell[] = DEVFNS.map((devfn, i) => m.plug(devfn, i === 0));
  const mapped = new Map<string, Mapping>();
  for (const devfn of DEVFNS) guest.function(devfn, SPACES);
  guest.sync();
  const seen: number[] = [];
  const clear = (f: number, s: number, n: number): void => {
    const key = `${f} ${s} ${n}`;
    if (!mapped.delete(key)) return;
    guest.unmap(DEVFNS[f]!, SPACES[s]!, VA + n * 4096);
    guest.invalidate(DEVFNS[f]!, SPACES[s]!, VA + n * 4096, f === 0);
    if (!guest.sync()) throw new Finding('an invalidation did not complete');
  };
  for (const [i, step] of input.steps.entries()) {
    const [f, s, n] = [Number(step[1]) & 1, Number(step[2]) & 1, Number(step[3]) % INPUTS] as const;
    if (step[0] === 'load') {
      if (loads) m.reload();
    } else if (step[0] === 'unmap') clear(f, s, n);
    else if (step[0] === 'map') {
      clear(f, s, n);
      const to = { page: Number(step[4]) % PAGES, writable: Number(step[5] ?? 1) !== 0 };
      guest.map(DEVFNS[f]!, SPACES[s]!, VA + n * 4096, DATA + to.page * 4096, to.writable);
      mapped.set(`${f} ${s} ${n}`, to);
    } else {
      const got = m.write(fns[f]!, SPACES[s]!, VA + n * 4096 + 8 * (i % 500), 0x1000_0000 + i, PAGES);
      const want = mapped.get(`${f} ${s} ${n}`);
      const expected = want?.writable === true ? want.page : -1;
      if (got !== expected) {
        const what = got === -1 ? 'an access is refused that is mapped' : 'an access reaches what is not mapped';
        throw new Finding(`${what}\n${kind}, caches ${caches}, step ${i}: page ${expected} is right, found ${got}`);
      }
      seen.push(got);
      guest.faults();
    }
  }
  if (m.errors.length > 0) throw m.errors[0];
  return seen;
}

/** Programs that invalidate what they change. */
export const cachesTarget: FuzzTarget = {
  name: 'caches',
  summary:
    'programs that invalidate as they must: caches full, tiny, off, and machines saved and loaded, all by a list',
  length: 60,
  generate(rnd, length) {
    const steps = Array.from({ length }, (): Step => {
      const at = [rnd.below(2), rnd.below(2), rnd.below(INPUTS)] as const;
      const what = rnd.below(100);
      if (what < 40) return ['map', ...at, rnd.below(PAGES), rnd.chance(85) ? 1 : 0];
      if (what < 52) return ['unmap', ...at];
      return what < 97 ? ['write', ...at] : ['load'];
    });
    return { config: { kind: rnd.chance(50) ? 'smmuv3' : 'vtd' }, steps };
  },
  run(input, plant) {
    const first = play(input, 'full', false, plant);
    for (const [caches, loads] of [
      ['tiny', false],
      ['off', false],
      ['full', true],
    ] as const) {
      if (JSON.stringify(play(input, caches, loads, plant)) !== JSON.stringify(first))
        throw new Finding('caches are seen');
    }
    return {};
  },
};
