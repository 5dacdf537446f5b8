import type { InterruptPort } from '../src/ports/irq.ts';
import type { Slot } from './topology.ts';

/** The four shared lines that pins of functions end at. A line is up while at least one pin behind it is. */
export class IntxWires {
  readonly #irq: InterruptPort | null;
  /** Pins that hold each line up. */
  readonly #holders = [0, 0, 0, 0];

  constructor(irq: InterruptPort | null) {
    this.#irq = irq;
  }

  /**
   * A pin (1 … 4) of a function rises or falls. Every bridge on the way swizzles: pin p of device d arrives as
   * (p - 1 + d) mod 4 (PCI-to-PCI Bridge Architecture Specification §9.1).
   */
  set(slot: Slot, pin: number, asserted: boolean): void {
    const line = lineOf(slot, pin);
    const before = this.#holders[line]!;
    this.#holders[line] = Math.max(0, before + (asserted ? 1 : -1));
    if (before === 0 && asserted) this.#irq?.level(line, true);
    if (before === 1 && !asserted) this.#irq?.level(line, false);
  }

  save(): number[] {
    return [...this.#holders];
  }

  /** @param holders what `save` gave; nobody is told. */
  load(holders: readonly number[]): void {
    for (const [line, n] of holders.entries()) this.#holders[line] = n;
  }

  /** Drives every line that is up once more: the interrupt controller may have seen it fall in a reset before a load. */
  drive(): void {
    for (const [line, n] of this.#holders.entries()) if (n > 0) this.#irq?.level(line, true);
  }
}

/** The line that a pin (1 to 4) of a function ends at. */
export function lineOf(slot: Slot, pin: number): number {
  let line = (pin - 1 + (slot.devfn >>> 3)) & 3;
  for (let above = slot.bus.parent; above !== null; above = above.bus.parent) line = (line + (above.devfn >>> 3)) & 3;
  return line;
}
