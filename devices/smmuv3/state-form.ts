import { checkSte } from '../../src/lib/check/ste.ts';
import type { StateOrigin } from '../../src/lib/saved/device-state.ts';
import { type FormOf, only, refuseField, WORD } from '../../src/lib/saved/state-form.ts';
import { EVENT_WORDS } from '../../src/spec/smmuv3/events.ts';
import { CR0, ID_REGISTERS_AT, PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import { CONFIG, STE_WORDS, steConfig } from '../../src/spec/smmuv3/ste.ts';
import type { Smmuv3Core } from './core.ts';
import { steRulesOf } from './qemu/choices.ts';
import type { Smmuv3Records } from './records.ts';
import type { StreamSaved, StreamState } from './stream.ts';

/** A vSMMUv3 as plain data: what the guest made of it. The host objects behind it are not part of it. */
export interface Smmuv3State extends StateOrigin {
  readonly iommu: 'smmuv3';
  readonly version: 2;
  readonly registers: number[];
  /** @internal */
  readonly events: ReturnType<Smmuv3Records['save']>;
  readonly waiting: boolean;
  readonly timedOut: boolean;
  readonly split: number;
  /** @internal */
  readonly streams: StreamSaved[];
}

/** Words that the properties decide and the guest cannot write: they are not state, but must be what this SMMU shows. */
const SHOWN: ReadonlySet<number> = new Set([
  ...Array.from({ length: 8 }, (_, i) => (PAGE0.IDR0.at >>> 2) + i),
  ...Array.from({ length: 12 }, (_, i) => (ID_REGISTERS_AT >>> 2) + i),
]);

const STATES: Readonly<Record<StreamState, true>> = {
  unset: true,
  policy: true,
  abort: true,
  bypass: true,
  s1: true,
  s2: true,
  nested: true,
};

/** What STE.Config makes of a stream. */
const BY_CONFIG: ReadonlyMap<number, StreamState> = new Map([
  [CONFIG.BYPASS, 'bypass'],
  [CONFIG.S1, 's1'],
  [CONFIG.S2, 's2'],
  [CONFIG.NESTED, 'nested'],
]);

/** What each field of a saved vSMMUv3 may hold. @param own the device's state now. */
export function smmuv3StateForm(own: Smmuv3State): FormOf<Smmuv3State> {
  const sid = { from: 0, to: 2 ** 32 - 1 };
  return {
    members: {
      iommu: { words: ['smmuv3'] },
      version: only(own.version),
      identity: { each: (i) => only(own.identity[i]!), length: own.identity.length },
      functions: { each: sid },
      registers: { each: (i) => (SHOWN.has(i) ? only(own.registers[i]!) : WORD), length: own.registers.length },
      events: {
        members: {
          last: { each: WORD, length: EVENT_WORDS },
          lastProd: WORD,
        },
      },
      waiting: 'boolean',
      timedOut: 'boolean',
      split: { from: -1, to: 10, fits: (n) => n === -1 || n === 6 || n === 8 || n === 10 },
      streams: {
        each: {
          members: {
            sid,
            state: { words: Object.keys(STATES) },
            ste: { each: WORD, length: STE_WORDS },
            tied: 'boolean',
          },
        },
      },
    },
  };
}

/**
 * The streams of a state whose form is good are its functions, in their order, and each has a state that its entry and
 * CR0.SMMUEN can put it into.
 * @throws ViommuError `EINVAL` names the field that does not fit.
 */
export function checkSmmuv3Streams({ name, features, deviations }: Smmuv3Core, s: Smmuv3State): void {
  const { functions, streams, registers } = s;
  if (functions.length !== streams.length) {
    refuseField(`${name}.functions.length`, functions.length, `as many as streams: ${streams.length}`);
  }
  const enabled = (registers[PAGE0.CR0.at >>> 2]! & CR0.SMMUEN) !== 0;
  const register = `registers.${PAGE0.CR0.at >>> 2} (CR0.SMMUEN) is ${enabled ? 1 : 0}`;
  const rules = steRulesOf(features, deviations);
  streams.forEach(({ sid, state, ste, tied }, i) => {
    const path = `${name}.streams.${i}`;
    if (functions.indexOf(sid) !== i) refuseField(`${path}.sid`, sid, `functions.${i}: ${functions[i]}, and only once`);
    if (state === 'unset' || state === 'abort') return;
    if ((state === 'policy') === enabled) refuseField(`${path}.state`, state, `another, since ${register}`);
    if (state === 'policy') return;
    if (BY_CONFIG.get(steConfig(ste, 0)) !== state) {
      refuseField(`${path}.state`, state, `what ${path}.ste.0 says: ${BY_CONFIG.get(steConfig(ste, 0)) ?? 'abort'}`);
    }
    // The entry was judged under the ATSCHK of its time.
    const legal = [false, true].some((check) => checkSte(Int32Array.from(ste), 0, features, check, rules) === 0);
    if (!legal) refuseField(`${path}.ste`, ste, 'a legal stream table entry');
    const named = (state === 's1' || state === 'nested') && !tied;
    if (named) refuseField(`${path}.tied`, tied, `true, since ${path}.state is ${state}`);
  });
}
