import type { HostVerbs } from '../../src/lib/uapi/host-verbs.ts';
import { COMMAND_WORDS } from '../../src/spec/smmuv3/commands.ts';

/** Commands collected before the host is called at the latest. */
const BATCH_MAX = 256;

/**
 * Guest invalidations on their way to one vIOMMU, in order. The kernel's count after a failure includes commands that it
 * converted and never issued, so the commands before the refused one are handed over once more (they are idempotent)
 * before the guest is told where the queue stopped. `trustCount` leaves that out, to show what gets lost.
 */
export class CommandBatch {
  readonly #host: HostVerbs;
  readonly #trustCount: boolean;
  readonly #words = new Int32Array(BATCH_MAX * COMMAND_WORDS);
  /** CMDQ_CONS of each command. */
  readonly #cons = new Int32Array(BATCH_MAX);
  #count = 0;
  #viommu = 0;
  /** CMDQ_CONS of the command the host refused, after `flush` or `add` returned false. */
  refusedAt = 0;

  constructor(host: HostVerbs, trustCount: boolean) {
    this.#host = host;
    this.#trustCount = trustCount;
  }

  get empty(): boolean {
    return this.#count === 0;
  }

  /** Adds one command; hands the earlier ones over when they go elsewhere or the room is used up. @returns false: refused. */
  add(viommu: number, cons: number, w0: number, w1: number, w2: number, w3: number): boolean {
    if ((viommu !== this.#viommu || this.#count === BATCH_MAX) && !this.flush()) return false;
    this.#viommu = viommu;
    const at = this.#count * COMMAND_WORDS;
    const q = this.#words;
    q[at] = w0;
    q[at + 1] = w1;
    q[at + 2] = w2;
    q[at + 3] = w3;
    this.#cons[this.#count++] = cons;
    return true;
  }

  /** Hands everything over. @returns false: the command at `refusedAt` was refused; those before it are in force. */
  flush(): boolean {
    const count = this.#count;
    if (count === 0) return true;
    this.#count = 0;
    const r = this.#host.invalidateSmmuv3(this.#viommu, this.#words, 0, count);
    if (r === 0) return true;
    let at = this.#host.invalidated;
    // ENOMEM leaves the count at its input; whatever is not a valid index means that nothing is known to be done.
    if (!(at >= 0 && at < count)) at = 0;
    while (!this.#trustCount && at > 0 && this.#host.invalidateSmmuv3(this.#viommu, this.#words, 0, at) !== 0) {
      const again = this.#host.invalidated;
      at = again >= 0 && again < at ? again : 0;
    }
    this.refusedAt = this.#cons[at]!;
    return false;
  }

  /** Forgets what was collected (reset). */
  drop(): void {
    this.#count = 0;
  }
}
