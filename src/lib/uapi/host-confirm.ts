import type { HostUpcalls, UpcallHandlers } from '../../ports/upcalls.ts';
import type { VerbOutcome } from './host-verbs.ts';

/**
 * Whether the host's units have done what detaches and unmaps asked of them, which the verbs alone do not tell
 * (`HostUpcalls.confirm`). Without upcalls nobody can be asked.
 */
export class HostConfirm {
  /** Whose devices are meant; null: nobody has any yet. */
  handlers: UpcallHandlers | null = null;
  readonly #upcalls: HostUpcalls | null;

  constructor(upcalls: HostUpcalls | null) {
    this.#upcalls = upcalls;
  }

  /** Asks the units again for what they refused. @returns 0, or -errno: something that was to go may still be in use. */
  ask(): VerbOutcome {
    const { handlers } = this;
    if (handlers === null || this.#upcalls === null) return 0;
    return this.#upcalls.confirm?.(handlers) ?? 0;
  }
}
