import { describe, expect, test } from 'vitest';
import type { Shell } from '../../../devices/endpoints/shell.ts';
import { ViommuError } from '../../../src/core/errors.ts';
import type { IommufdFile } from '../../../src/host/iommufd/file.ts';
import { CountingMemory, hostState } from '../../host/failures/state.ts';
import { DATA, KINDS, type Kind, probe, Rig } from '../plugged/rig.ts';

/** Nothing of the guest's RAM is pinned piece by piece: the process has no part in the state. */
const NOBODY = new CountingMemory();
const RID = 0x10;
const OTHER = 0x18;

/** What `hostState` says, as far as it is looked into here. */
interface Host {
  readonly seen: readonly (readonly [id: number, kind: string, users: number, more: unknown])[];
  readonly rlimitMode: unknown;
}
interface IoasState {
  readonly allowed: unknown;
  readonly areas: readonly (readonly unknown[])[];
}

function hostOf({ machine }: Rig): Host {
  const { vm } = machine;
  const text = hostState(vm.iommufd as IommufdFile, vm.hostMemory, NOBODY, []);
  // Where the host has guest RAM is its own affair: only that it is somewhere.
  return JSON.parse(text.replaceAll(/\b\d{13}\b/g, '"hpa"')) as Host;
}
const slotsOf = ({ machine }: Rig) => [...machine.complex.slots()].map((s) => [s.fn.name, s.devfn]);

/** What each function is attached to, by id of its device. */
function attached(host: Host): Map<number, string> {
  const devices = host.seen.filter(([, kind]) => kind === 'device');
  return new Map(devices.map(([id, , , more]) => [id, JSON.stringify((more as unknown[])[2])]));
}

/** The host without what comes into being when functions are attached: HWPTs, and what an IOAS knows of them. */
function apart(host: Host): unknown {
  const kept = host.seen
    .filter(([, kind]) => kind === 'ioas')
    .map(([id, kind, , more]) => {
      const { allowed, areas } = more as IoasState;
      return [id, kind, allowed, areas.map((a) => a.slice(0, -1))];
    });
  return [kept, [...attached(host).keys()], host.rlimitMode];
}

/** A machine with one function, which is in use; with translation the guest's tables say what it reaches. */
function world(kind: Kind, translated: boolean) {
  const rig = new Rig(kind, { failures: { seed: 1 } });
  const failures = rig.machine.vm.failures!;
  failures.on = false;
  const fn = probe();
  rig.plug(fn, RID);
  if (translated) {
    rig.space(RID);
    rig.guest.sync();
    expect(rig.reaches(fn, DATA)).toBe(true);
  }
  const saved = rig.machine.save();
  const other = probe();
  failures.on = true;
  return { rig, fn, other, saved, failures };
}
type World = ReturnType<typeof world>;

/** The first use of every function by its driver. @returns what became of each access. */
function use({ rig, fn, other }: World): number[] {
  const functions: [Shell, number][] = [
    [fn, RID],
    [other, OTHER],
  ];
  return functions.flatMap(([f, devfn]) => {
    if (rig.machine.complex.slotOf(f) === undefined) return [];
    rig.enable(0, devfn, f);
    return [rig.write(f, 1), rig.write(f, 2, undefined, DATA + 64)];
  });
}

const plug = (w: World) => w.rig.machine.plug(w.other, OTHER);
const reset = (w: World) => w.rig.machine.reset();
const load = (w: World) => w.rig.machine.load(w.saved);
const save = (w: World) => w.rig.machine.save();

type Row = readonly [kind: Kind, what: string, translated: boolean, run: (w: World) => unknown];
/** What asks for steps. What asks for none is below. */
const ROWS: readonly Row[] = [
  ...KINDS.flatMap((kind): Row[] => [
    [kind, 'plug, without translation', false, plug],
    [kind, 'plug, with translation', true, plug],
    [kind, 'reset, with translation', true, reset],
    [kind, 'load, with translation', true, load],
  ]),
  ['smmuv3', 'load, without translation', false, load],
];
/** Where the machine does not answer for what a function has: it is attached on its first use. */
const WAITS = new Set([
  'smmuv3: reset, with translation',
  'vtd: reset, with translation',
  'vtd: plug, without translation',
]);
/** Nothing of the host is changed by a save; VT-d's functions keep what they have when nothing was translated. */
const WITHOUT: readonly Row[] = [
  ...KINDS.flatMap((kind): Row[] => [
    [kind, 'save, without translation', false, save],
    [kind, 'save, with translation', true, save],
    [kind, 'reset, without translation', false, reset],
  ]),
  ['vtd', 'load, without translation', false, load],
];

describe('when the n-th internal step fails, for every n', () => {
  test.each(ROWS)(
    '%s: %s: it is done, or nothing is, or an attachment is made on first use',
    (kind, what, translated, run) => {
      const never = world(kind, translated);
      never.failures.on = false;
      run(never);
      const done = { host: hostOf(never.rig), slots: slotsOf(never.rig) };
      const became = use(never);
      const used = hostOf(never.rig);
      let asked = 0;
      let waited = 0;
      for (let n = 1; ; n++) {
        expect(n).toBeLessThan(500);
        const w = world(kind, translated);
        const { rig, failures } = w;
        const before = { host: hostOf(rig), slots: slotsOf(rig) };
        const plan = failures.nth(n);
        let error: unknown = null;
        try {
          run(w);
        } catch (e) {
          error = e;
        }
        failures.on = false;
        const where = [kind, what, n, plan.failed];
        const now = { host: hostOf(rig), slots: slotsOf(rig) };
        if (error !== null) {
          expect(error).toBeInstanceOf(ViommuError);
          expect([...where, now]).toEqual([...where, before]);
          run(w);
          expect([...where, hostOf(rig), slotsOf(rig)]).toEqual([...where, done.host, done.slots]);
        } else {
          // Done, but for functions that have nothing attached where they should have something.
          expect([...where, now.slots, apart(now.host)]).toEqual([...where, done.slots, apart(done.host)]);
          const has = attached(now.host);
          let missing = 0;
          for (const [id, wanted] of attached(done.host)) {
            if (has.get(id) === wanted) continue;
            missing++;
            expect([...where, has.get(id)]).toEqual([...where, '[]']);
          }
          if (missing > 0) waited++;
          else expect([...where, now]).toEqual([...where, done]);
        }
        // Either way nothing is left of it after the first use.
        expect([...where, use(w), hostOf(rig)]).toEqual([...where, became, used]);
        expect(rig.errors).toEqual([]);
        if (plan.failed === null) break;
        asked++;
      }
      expect(asked).toBeGreaterThan(3);
      expect([kind, what, waited > 0]).toEqual([kind, what, WAITS.has(`${kind}: ${what}`)]);
    },
  );

  test.each(WITHOUT)('%s: %s has no step that could fail', (kind, _what, translated, run) => {
    const w = world(kind, translated);
    w.failures.on = false;
    const before = hostOf(w.rig);
    w.failures.on = true;
    run(w);
    const asked = Object.values(w.failures.counts()).reduce((sum, c) => sum + c.asked, 0);
    w.failures.on = false;
    expect([asked, hostOf(w.rig)]).toEqual([0, before]);
  });
});
