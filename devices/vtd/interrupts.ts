import { fromWords } from '../../src/core/bits.ts';
import type { RegisterFile } from '../../src/core/registers.ts';
import type { InterruptPort } from '../../src/ports/irq.ts';
import type { Tell } from '../../src/ports/tell.ts';
import { EVENT } from '../../src/spec/vtd/registers.ts';

/**
 * One event interrupt of the unit: a control register with IM and IP, then data, address and upper address, as fault,
 * invalidation and page-request events have them (VT-d §7.3). Events of the unit are never remapped.
 */
export class EventMessage {
  readonly #regs: RegisterFile;
  readonly #at: number;
  readonly #irq: InterruptPort;
  readonly #line: string;
  readonly #device: string;
  tell: Tell | null = null;

  /** @param control offset of FECTL, IECTL or PECTL. */
  constructor(regs: RegisterFile, control: number, irq: InterruptPort, device: string, line: string) {
    this.#regs = regs;
    this.#at = control;
    this.#irq = irq;
    this.#device = device;
    this.#line = line;
  }

  /** The condition arose: IP is set, and the message leaves at once unless it is masked. */
  raise(): void {
    this.#regs.set(this.#at, this.#regs.get(this.#at) | EVENT.IP);
    this.unmasked();
  }

  /** The control register was written: a pending message leaves when IM is clear. */
  unmasked(): void {
    const control = this.#regs.get(this.#at);
    if ((control & EVENT.IP) === 0 || (control & EVENT.IM) !== 0) return;
    this.#regs.set(this.#at, control & ~EVENT.IP);
    const data = this.#regs.get(this.#at + 4) >>> 0;
    const address = fromWords(this.#regs.get(this.#at + 8), this.#regs.get(this.#at + 12) & 0xf_ffff);
    if (this.tell !== null) this.tell({ what: 'irq', device: this.#device, line: this.#line, address, data });
    this.#irq.message(address, data);
  }

  /** Software serviced the condition: a message still pending is dropped. */
  serviced(): void {
    this.#regs.set(this.#at, this.#regs.get(this.#at) & ~EVENT.IP);
  }
}
