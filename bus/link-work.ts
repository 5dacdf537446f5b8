import type { AccessGate } from '../src/lib/access/access-gate.ts';
import type { AccessWork } from '../src/ports/pci.ts';
import type { Fabric } from './fabric.ts';

/** What an access may cost, as the one behind a gate sees it: a function, or who follows what is plugged in where. */
export class LinkWork implements AccessWork {
  readonly #fabric: Fabric;
  readonly #gate: AccessGate;
  readonly #there: () => boolean;

  /** @param there whether what is put off is still to be done. */
  constructor(fabric: Fabric, gate: AccessGate, there: () => boolean) {
    this.#fabric = fabric;
    this.#gate = gate;
    this.#there = there;
  }

  get spent(): boolean {
    return this.#fabric.later !== null && this.#gate.spent;
  }

  spend(units: number): void {
    this.#gate.spend(units);
  }

  /** Whoever it is is at work meanwhile, as in an access: nobody else gets in. */
  later(action: () => void): void {
    this.#fabric.later?.(() => {
      if (this.#there() && !this.#gate.within(action)) this.later(action);
    });
  }
}
