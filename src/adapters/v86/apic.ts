import type { V86Cpu } from './internals.ts';

/** Word indices in v86's local APIC and IOAPIC structures. */
const LAPIC = { WORDS: 46, IRR: 16, ISR: 24, TMR: 32 } as const;
const IOAPIC = { WORDS: 52, IRR: 50, LINES: 51 } as const;

const EFLAGS_IF = 0x200;

/**
 * A CPU that may take interrupts is this long below one in service, milliseconds: nobody serves that one. A halted CPU
 * serves nobody, a running one may be in a handler that lets others in.
 */
const LOST_AFTER = { HALTED: 1, RUNNING: 50 } as const;

/** The highest vector of eight words of bits; -1: none. */
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
  #view: Uint32Array;
  /** The vector that may be lost, -1: none, and since when, milliseconds. */
  #suspect = -1;
  #since = 0;
  /** Interrupts asked for again so far. */
  lost = 0;

  constructor(cpu: V86Cpu, defer: (action: () => void) => void) {
    this.#cpu = cpu;
    this.#defer = defer;
    this.#view = this.#mapped();
  }

  #mapped(): Uint32Array {
    return new Uint32Array(this.#cpu.wasm_memory.buffer, this.#cpu.get_apic_addr(), LAPIC.WORDS);
  }

  /** The local APIC's structure. It moves when the WASM memory grows. */
  #lapic(): Uint32Array {
    if (this.#view.buffer !== this.#cpu.wasm_memory.buffer) this.#view = this.#mapped();
    return this.#view;
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

  /**
   * Asks again for an interrupt v86 lost. 0.5.462 takes interrupts in the middle of a store to the local APIC; compiled code
   * then goes on with its own registers, and the interrupt stays in service though no handler ever ran. Linux meets that
   * when it sends itself irq_work with interrupts on; it never goes on with interrupts on below one in service. Call it at
   * every turn of the CPU.
   * @param now milliseconds. @returns after how many milliseconds it wants to be called at the latest.
   */
  unstick(now: number): number {
    const apic = this.#lapic();
    const served = highest(apic, LAPIC.ISR);
    // v86's views are proxies: nearly every turn ends with the first look.
    if (served < 0 || (this.#cpu.flags[0]! & EFLAGS_IF) === 0 || highest(apic, LAPIC.IRR) > served) {
      this.#suspect = -1;
      return Number.POSITIVE_INFINITY;
    }
    if (served !== this.#suspect) {
      this.#suspect = served;
      this.#since = now;
    }
    const left = this.#since + (this.#cpu.in_hlt[0] === 0 ? LOST_AFTER.RUNNING : LOST_AFTER.HALTED) - now;
    if (left > 0) return left;
    this.#suspect = -1;
    this.lost++;
    const [word, bit] = [served >>> 5, 1 << (served & 31)];
    apic[LAPIC.ISR + word]! &= ~bit;
    apic[LAPIC.IRR + word]! |= bit;
    this.#wake();
    return Number.POSITIVE_INFINITY;
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
