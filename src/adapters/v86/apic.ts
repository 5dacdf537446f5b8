import type { V86Cpu } from './internals.ts';

/** Word indices in v86's local APIC and IOAPIC structures. */
const LAPIC = { WORDS: 46, IRR: 16, TMR: 32 } as const;
const IOAPIC = { WORDS: 52, IRR: 50, LINES: 51 } as const;

/**
 * Interrupts into v86. Its CPU must not see one from inside a memory handler (JIT code keeps registers in locals there), so
 * delivery sets bits at once and wakes the CPU later.
 */
export class V86Interrupts {
  readonly #cpu: V86Cpu;
  readonly #defer: (action: () => void) => void;
  #pending = false;

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
    const apic = new Uint32Array(this.#cpu.wasm_memory.buffer, this.#cpu.get_apic_addr(), LAPIC.WORDS);
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
