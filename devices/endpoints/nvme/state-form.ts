import {
  bits,
  COUNT,
  checkFormOf,
  type FormOf,
  type IntegerForm,
  only,
  refuseField,
  WORD,
} from '../../../src/lib/saved/state-form.ts';
import { MAX_QUEUE_ENTRIES, NVME, SQE_BYTES } from '../../../src/spec/nvme/registers.ts';
import type { NvmeState } from './controller.ts';
import { type NvmeWaiting, STEP } from './in-hand.ts';
import { type CompletionQueue, EVENT_LIMIT, QUEUE_LIMIT, type SubmissionQueue } from './queues.ts';

/** Entries of the largest queue: the admin queues may be longer than the others. */
const ENTRIES = Math.max(MAX_QUEUE_ENTRIES, 4096);
const entry: IntegerForm = { from: 0, to: ENTRIES - 1 };
const count: IntegerForm = { from: 1, to: ENTRIES };
const id: IntegerForm = { from: 0, to: QUEUE_LIMIT - 1 };

/** Registers that have bits which can change. */
const MASKS: ReadonlyMap<number, number> = new Map(
  Object.values(NVME).flatMap((r) => {
    const rw = 'rw' in r ? r.rw : 0n;
    const words = r.size === 8 ? [rw & 0xffff_ffffn, rw >> 32n] : [rw];
    return words.map((mask, i) => [(r.at >>> 2) + i, Number(BigInt.asIntN(32, mask))] as const);
  }),
);
const CSTS = NVME.CSTS.at >>> 2;
const CSTS_BITS = 0xf;

const WAITING: FormOf<NvmeWaiting> = {
  members: {
    queue: id,
    step: { from: STEP.FETCH, to: STEP.COMPLETE },
    status: { from: -1, to: 0x7ff },
    result: WORD,
    sqe: { each: WORD, length: SQE_BYTES / 4 },
    stall: {
      members: {
        token: { from: -1, to: Number.MAX_SAFE_INTEGER },
        call: COUNT,
        verdicts: { each: { members: { call: COUNT, outcome: { from: 0, to: 0xff } } }, most: 4096 },
      },
    },
  },
};

/** What each field of a saved controller may hold. @param own its registers now. @param vectors its interrupt vectors. */
function form(own: readonly number[], vectors: number): FormOf<NvmeState> {
  const register = (i: number): IntegerForm => {
    if (i === CSTS) return bits(CSTS_BITS);
    const mask = MASKS.get(i) ?? 0;
    return mask === 0 ? only(own[i]!) : bits(mask);
  };
  const queue = { id, entries: count, lo: WORD, hi: WORD, head: entry, tail: entry };
  const submission: FormOf<SubmissionQueue> = { members: { ...queue, cq: id } };
  const completion: FormOf<CompletionQueue> = {
    members: { ...queue, vector: { from: 0, to: vectors - 1 }, interrupts: 'boolean', phase: { from: 0, to: 1 } },
  };
  return {
    members: {
      regs: { each: register, length: own.length },
      submissions: { each: { orNull: submission }, length: QUEUE_LIMIT },
      completions: { each: { orNull: completion }, length: QUEUE_LIMIT },
      masked: WORD,
      events: { each: { from: 0, to: 0xffff }, most: EVENT_LIMIT },
      waiting: { orNull: WAITING },
    },
  };
}

/** @throws ViommuError `EINVAL` names the field of a saved controller that does not fit. */
export function checkNvme(state: unknown, path: string, own: readonly number[], vectors: number): void {
  checkFormOf<NvmeState>(state, form(own, vectors), path);
  const { submissions, completions, waiting } = state as NvmeState;
  if (waiting != null && submissions[waiting.queue] === null) {
    refuseField(`${path}.waiting.queue`, waiting.queue, 'a queue that there is');
  }
  const lists = [
    ['submissions', submissions],
    ['completions', completions],
  ] as const;
  for (const [name, list] of lists) {
    for (const [i, q] of list.entries()) {
      if (q === null) continue;
      const at = `${path}.${name}.${i}`;
      if (q.id !== i) refuseField(`${at}.id`, q.id, `${i}, its place`);
      if (q.head >= q.entries) refuseField(`${at}.head`, q.head, `an entry of a queue of ${q.entries}`);
      if (q.tail >= q.entries) refuseField(`${at}.tail`, q.tail, `an entry of a queue of ${q.entries}`);
    }
  }
}
