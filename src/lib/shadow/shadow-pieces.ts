import type { Quota } from '../limits/machine-limits.ts';

/** A shadow that can give its pieces back, because they come back with the next misses. */
export interface ShadowMember {
  /** Pieces it has. */
  readonly pieces: number;
  /** Gives some of them back, all where there are few. */
  surrender(): void;
}

/** The pieces of all shadows of a machine, against their quota: who needs one more takes those of the shadow that grew longest ago. */
export class ShadowPieces {
  readonly quota: Quota;
  /** Those with pieces, the one that grew longest ago first. */
  readonly #members = new Set<ShadowMember>();

  constructor(quota: Quota) {
    this.quota = quota;
  }

  /** Whether a fill ahead of use may go on. */
  get room(): boolean {
    return this.quota.room();
  }

  /** `member` is about to grow by a miss. */
  grow(member: ShadowMember): void {
    this.#members.delete(member);
    this.#members.add(member);
    if (this.quota.room()) return;
    for (const oldest of this.#members) {
      oldest.surrender();
      if (this.quota.used < this.quota.limit) break;
      // The host keeps them: the next one is asked, and this one not before all others.
      this.#members.delete(oldest);
    }
    this.#members.add(member);
  }

  /** Pieces of `member` came or went. */
  changed(member: ShadowMember, by: number): void {
    this.quota.used += by;
    if (member.pieces > 0) this.#members.add(member);
    else this.#members.delete(member);
  }
}
