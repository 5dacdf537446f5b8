import type { AccessNesting } from '../src/lib/access/access-gate.ts';
import type { AccessWork } from '../src/ports/pci.ts';
import type { Fabric } from './fabric.ts';
import type { Slot } from './topology.ts';

/** What an access may cost, as the function in a slot sees it. */
export class LinkWork implements AccessWork {
  readonly #fabric: Fabric;
  readonly #slot: Slot;

  constructor(fabric: Fabric, slot: Slot) {
    this.#fabric = fabric;
    this.#slot = slot;
  }

  get spent(): boolean {
    return this.#fabric.later !== null && this.#slot.gate.spent;
  }

  spend(units: number): void {
    this.#slot.gate.spend(units);
  }

  /** The function is at work meanwhile, as in an access: nobody else gets in. */
  later(action: () => void): void {
    this.#fabric.later?.(() => {
      if (!this.#fabric.plugged(this.#slot)) return;
      if (!this.#slot.gate.within(action)) this.later(action);
    });
  }
}

/** What an access may cost, as those see it who follow what is plugged in where: no function is at work then. */
export class BusWork implements AccessWork {
  readonly #fabric: Fabric;
  readonly #accesses: AccessNesting;

  constructor(fabric: Fabric, accesses: AccessNesting) {
    this.#fabric = fabric;
    this.#accesses = accesses;
  }

  get spent(): boolean {
    return this.#fabric.later !== null && this.#accesses.spent;
  }

  spend(units: number): void {
    this.#accesses.spend(units);
  }

  later(action: () => void): void {
    this.#fabric.later?.(() => {
      if (!this.#accesses.deeper()) {
        this.later(action);
        return;
      }
      try {
        action();
      } finally {
        this.#accesses.depth--;
      }
    });
  }
}
