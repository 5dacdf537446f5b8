import type { V86Cpu } from './internals.ts';

/** Word indices in v86's local APIC and IOAPIC structures. */
const LAPIC = { WORDS: 46, IRR: 16, ISR: 24, TMR: 32 } as const;
const IOAPIC = { WORDS: 52, IRR: 50, LINES: 51 } as const;

const EFLAGS_IF = 0x200;

/** A CPU that may take interrupts halts for this long, in milliseconds, below one in service: nobody serves that one. */
const LOST_AFTER = 20;

/** The highest vector of eight words of bits; −1: none. */
function highest(apic: Uint32Array, at: number): number {
  for (let word = 7; word >= 0; word--) {
    const bits = apic[at + word]!;
    if (bits !== 0) return word * 32 + 31 - Math.clz32(bits);
  }
  return -1;
}

/**
 * Interrupts into v86. Its CPU must not see one from inside a memory handler (JIT code keeps registers in locals there), so
 * delivery sets bits at once and wakes the CPU later.
 */
export class V86Interrupts {
  readonly #cpu: V86Cpu;
  readonly #defer: (action: () => void) => void;
  #pending = false;
  /** Since when an interrupt in service has kept others from a halted CPU, milliseconds; −1: it does not. */
  #blocked = -1;

  constructor(cpu: V86Cpu, defer: (action: () => void) => void) {
    this.#cpu = cpu;
    this.#defer = defer;
  }

  /**
   * A message to the one local APIC: fixed or lowest priority delivery, edge. @returns false: not an interrupt address, or a
   * delivery mode without a vector (those are dropped, as v86 has no other CPU to start).
   */
  message(address: number, data: number): boolean {
    if (Math.floor(address / 0x10_0000) !== 0xfee || ((data >>> 8) & 7) > 1) return false;
    const vector = data & 0xff;
    const apic = this.#lapic();
    const word = vector >>> 5;
    const bit = 1 << (vector & 31);
    apic[LAPIC.IRR + word]! |= bit;
    apic[LAPIC.TMR + word]! &= ~bit;
    this.#wake();
    return true;
  }

  #wake(): void {
    if (this.#pending) return;
    this.#pending = true;
    this.#defer(() => {
      this.#pending = false;
      this.#cpu.handle_irqs();
    });
  }

  #lapic(): Uint32Array {
    return new Uint32Array(this.#cpu.wasm_memory.buffer, this.#cpu.get_apic_addr(), LAPIC.WORDS);
  }

  /**
   * Asks again for an interrupt v86 lost. 0.5.462 takes interrupts in the middle of a store to the local APIC; compiled code
   * then goes on with its own registers, and the interrupt stays in service though no handler ever ran. Linux meets that
   * when it sends itself irq_work with interrupts on. Call it at every turn of the CPU. @param now milliseconds.
   */
  unstick(now: number): void {
    const cpu = this.#cpu;
    if (cpu.in_hlt[0] === 0 || (cpu.flags[0]! & EFLAGS_IF) === 0) {
      this.#blocked = -1;
      return;
    }
    const apic = this.#lapic();
    const served = highest(apic, LAPIC.ISR);
    const asked = highest(apic, LAPIC.IRR);
    if (served < 0 || asked < 0 || asked > served) {
      this.#blocked = -1;
    } else if (this.#blocked < 0) {
      this.#blocked = now;
    } else if (now - this.#blocked >= LOST_AFTER) {
      this.#blocked = -1;
      const [word, bit] = [served >>> 5, 1 << (served & 31)];
      apic[LAPIC.ISR + word]! &= ~bit;
      apic[LAPIC.IRR + word]! |= bit;
      this.#wake();
    }
  }

  /** A level-triggered line (global interrupt number below 16). It drops at once, or the guest's handler storms. */
  level(gsi: number, asserted: boolean): void {
    if (asserted) {
      this.#defer(() => this.#cpu.device_raise_irq(gsi));
      return;
    }
    const ioapic = new Uint32Array(this.#cpu.wasm_memory.buffer, this.#cpu.get_ioapic_addr(), IOAPIC.WORDS);
    ioapic[IOAPIC.IRR]! &= ~(1 << gsi);
    ioapic[IOAPIC.LINES]! &= ~(1 << gsi);
    this.#defer(() => this.#cpu.device_lower_irq(gsi));
  }
}
