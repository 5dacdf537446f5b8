import type { StateOrigin } from '../../src/lib/saved/device-state.ts';
import {
  COUNT,
  type FormOf,
  type IntegerForm,
  only,
  PAGE_ADDRESS,
  powerOrZero,
  refuseField,
  WORD,
} from '../../src/lib/saved/state-form.ts';
import { INV_TYPES } from '../../src/spec/vtd/invalidation.ts';
import { PAGE } from '../../src/spec/vtd/registers.ts';
import type { TableRoot } from './core.ts';
import type { RemapperState } from './interrupt-remapper.ts';
import type { QueueState } from './queue.ts';
import { MAX_WAITS, WAIT_WORDS } from './waits.ts';

/** A vVT-d as plain data: what the guest made of it. The host objects behind it are not part of it. */
export interface VtdState extends StateOrigin {
  readonly iommu: 'vtd';
  readonly version: 2;
  readonly regs: readonly number[];
  /** @internal */
  readonly queue: QueueState;
  /** The fault recording register that is used next. */
  readonly faults: number;
  /** @internal */
  readonly remapper: RemapperState;
  /** @internal */
  readonly root: TableRoot;
  /** PASIDs given out by VCMD. */
  readonly pasids: readonly number[];
}

/** Words that the properties decide and the guest cannot write: they are not state, but must be what this unit shows. */
const SHOWN: ReadonlySet<number> = new Set(
  [PAGE.VER, PAGE.CAP, PAGE.ECAP].flatMap(({ at, size }) => (size === 8 ? [at >>> 2, (at >>> 2) + 1] : [at >>> 2])),
);

/** Descriptors of the largest queue. */
const QUEUE_ENTRIES = 2 ** 15;

/**
 * What each field of a saved vVT-d may hold.
 * @param own the unit's state now. @param records fault recording registers. @param pasids VCMD gives out PASIDs below this.
 */
export function vtdStateForm(own: VtdState, records: number, pasids: number): FormOf<VtdState> {
  const index: IntegerForm = { from: 0, to: QUEUE_ENTRIES - 1 };
  return {
    members: {
      iommu: { words: ['vtd'] },
      version: only(own.version),
      identity: { each: (i) => only(own.identity[i]!), length: own.identity.length },
      functions: { each: { from: 0, to: 0xffff }, most: 0x1_0000 },
      regs: { each: (i) => (SHOWN.has(i) ? only(own.regs[i]!) : WORD), length: own.regs.length },
      queue: {
        members: {
          enabled: 'boolean',
          wide: 'boolean',
          base: PAGE_ADDRESS,
          size: powerOrZero(1, QUEUE_ENTRIES),
          head: index,
          tail: index,
          last: { from: 0, to: 0xff },
          waits: { each: WORD, most: MAX_WAITS * WAIT_WORDS, groups: WAIT_WORDS },
          counts: { each: COUNT, length: INV_TYPES },
        },
      },
      faults: { from: 0, to: records - 1 },
      remapper: {
        members: {
          on: 'boolean',
          compatibility: 'boolean',
          base: PAGE_ADDRESS,
          size: powerOrZero(2, 2 ** 16),
          extended: 'boolean',
        },
      },
      root: { members: { on: 'boolean', base: PAGE_ADDRESS, mode: { from: 0, to: 3 } } },
      pasids: { each: { from: 1, to: pasids - 1 }, most: pasids - 1 },
    },
  };
}

/**
 * The fields of a state whose form is good agree with each other.
 * @throws ViommuError `EINVAL` names one that does not.
 */
export function checkVtdFields(name: string, state: VtdState): void {
  const { queue, pasids } = state;
  const { enabled, size, head } = queue;
  if (enabled && size === 0) refuseField(`${name}.queue.size`, size, 'entries, since queue.enabled is true');
  if (head >= Math.max(size, 1)) refuseField(`${name}.queue.head`, head, `an entry of queue.size ${size}`);
  pasids.forEach((pasid, i) => {
    if (i > 0 && pasid <= pasids[i - 1]!) refuseField(`${name}.pasids.${i}`, pasid, 'more than the one before');
  });
}
