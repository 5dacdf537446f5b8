import { fromWords } from '../../src/core/bits.ts';
import type { InterruptPort } from '../../src/ports/irq.ts';
import type { Memory } from '../../src/ports/memory.ts';
import type { Tell } from '../../src/ports/tell.ts';
import { isInterruptAddress } from '../../src/spec/vtd/interrupt.ts';
import { EVENT_CONTROL, PAGE } from '../../src/spec/vtd/registers.ts';
import type { VtdDeps } from './deps.ts';
import type { VtdDeviations } from './profile.ts';
import type { VtdRegisters } from './registers.ts';

/** Bits 39:32 of a message's address; above them, an upper address register has the high bits of an extended APIC id (§11.4.8). */
const MIDDLE = 0xff;

/** 0xFEEx_xxxx (§3.15), with whatever destination. */
function toApic(lo: number, hi: number): boolean {
  return isInterruptAddress(lo, hi & MIDDLE);
}

/** The unit's own interrupts (VT-d §7.3). They are never remapped. */
export class VtdInterrupts {
  readonly fault: EventMessage;
  /** A wait descriptor with IF completed. */
  readonly completion: EventMessage;
  readonly pageRequest: EventMessage;

  constructor(regs: VtdRegisters, deps: Pick<VtdDeps, 'irq' | 'memory' | 'tell'>, d: VtdDeviations, name: string) {
    const { irq, memory, tell } = deps;
    const event = (control: number, line: string) => {
      return new EventMessage({ regs, control, irq, memory: d.messagesToApicOnly ? null : memory, tell, name, line });
    };
    this.fault = event(PAGE.FECTL.at, 'fault');
    this.completion = event(PAGE.IECTL.at, 'invalidation');
    this.pageRequest = event(PAGE.PECTL.at, 'page');
  }
}

interface EventConfig {
  readonly regs: VtdRegisters;
  /** Offset of FECTL, IECTL or PECTL; data, address and upper address follow it. */
  readonly control: number;
  readonly irq: InterruptPort;
  /** Where messages outside of the interrupt range go; null: they are interrupts as well. */
  readonly memory: Memory | null;
  readonly tell: Tell | null;
  readonly name: string;
  readonly line: string;
}

/** One event interrupt: a control register with IM and IP, and the message it sends. */
export class EventMessage {
  readonly #c: EventConfig;

  constructor(config: EventConfig) {
    this.#c = config;
  }

  /** The condition arose: IP is set, and the message leaves at once unless it is masked. */
  raise(): void {
    const { regs, control } = this.#c;
    regs.set(control, regs.get(control) | EVENT_CONTROL.IP);
    this.unmasked();
  }

  /** The control register was written: a pending message leaves when IM is clear. */
  unmasked(): void {
    const { regs, control, irq, memory, tell, name, line } = this.#c;
    const value = regs.get(control);
    if ((value & EVENT_CONTROL.IP) === 0 || (value & EVENT_CONTROL.IM) !== 0) return;
    regs.set(control, value & ~EVENT_CONTROL.IP);
    const data = regs.get(control + 4) >>> 0;
    const lo = regs.get(control + 8);
    const hi = regs.get(control + 12) & 0xf_ffff;
    const address = fromWords(lo, hi);
    if (tell !== null) tell({ what: 'irq', device: name, line, address, data });
    // A write that nothing takes is lost: the unit has no way to tell of it.
    if (memory === null || toApic(lo, hi)) irq.message(address, data);
    else memory.store32(address, data | 0);
  }

  /** Software serviced the condition: a message still pending is dropped. */
  serviced(): void {
    const { regs, control } = this.#c;
    regs.set(control, regs.get(control) & ~EVENT_CONTROL.IP);
  }
}
