import { GlobalPasids } from '../../../devices/vtd/pasid-modes.ts';
import type { PasidDrain } from '../../lib/pasid/pasid-drain.ts';
import type { PasidSpace } from '../../lib/pasid/pasid-space.ts';
import type { Clock } from '../../ports/clock.ts';
import { CpuPasidTable } from './cpu-pasid-table.ts';

/**
 * PASIDs of one VM, above the uAPI, which knows none of this:
 *
 * - the host's pool of global PASIDs, shared with other VMs, and the twins this VM's local PASIDs have in it;
 * - the processor's table that makes the one of the other;
 * - who must be through before any PASID is used for something else.
 *
 * Everything is tied to this object: `close` gives it all back, whatever the order.
 */
export class PasidLayer implements PasidDrain {
  /** The host's pool. */
  readonly space: PasidSpace;
  /** The twins this VM's local PASIDs have in the pool. */
  readonly globals: GlobalPasids;
  /** The processor's translation of local PASIDs. */
  readonly cpu = new CpuPasidTable();
  readonly #users = new Set<PasidDrain>();
  readonly #owners = new Set<() => void>();
  /** Drains under way, for listings and tests. */
  #draining = 0;

  /** @param space local PASIDs lie below its `min`, the host's from there on. */
  constructor(space: PasidSpace) {
    this.space = space;
    this.globals = new GlobalPasids(space, this);
    this.globals.listen((local, global) => this.cpu.set(local, global));
    this.cpu.onMiss = (local) => void this.globals.missing(local);
  }

  /**
   * Somebody who has PASIDs of the VM, or address spaces behind them, gives them back when the VM goes.
   * @returns takes it back.
   */
  whenClosed(release: () => void): () => void {
    this.#owners.add(release);
    return () => this.#owners.delete(release);
  }

  /** A function that can have work of a PASID in flight. @returns takes it back (what it held counts as through). */
  addUser(user: PasidDrain): () => void {
    this.#users.add(user);
    return () => this.#users.delete(user);
  }

  /** Drains under way. */
  get draining(): number {
    return this.#draining;
  }

  drain(pasid: number, idle: () => void): void {
    const waiting = new Set(this.#users);
    this.#draining++;
    const through = (user: PasidDrain) => {
      if (!waiting.delete(user) || waiting.size > 0) return;
      this.#draining--;
      idle();
    };
    if (waiting.size === 0) {
      this.#draining--;
      idle();
      return;
    }
    for (const user of [...waiting]) user.drain(pasid, () => through(user));
  }

  /** The VM is gone: whoever has something of it gives it back first, and then the pairings go. */
  close(): void {
    for (const release of [...this.#owners]) release();
    this.#owners.clear();
    this.globals.close();
  }
}

/**
 * A user that can only be asked whether it is busy: it is looked at again every `period` nanoseconds.
 * @param busy whether work of the PASID is queued or under way.
 */
export function polled(clock: Clock, period: number, busy: (pasid: number) => boolean): PasidDrain {
  const look = (pasid: number, idle: () => void): void => {
    if (busy(pasid)) clock.after(period, () => look(pasid, idle));
    else idle();
  };
  return { drain: look };
}
