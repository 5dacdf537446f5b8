import { hiWord } from '../../src/core/bits.ts';
import type { InterruptPort } from '../../src/ports/irq.ts';
import type { Memory } from '../../src/ports/memory.ts';
import type { Tell } from '../../src/ports/tell.ts';
import { GERROR, IRQ_CTRL, PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import { LINE, LINE_NAMES, type Smmuv3Deps } from './deps.ts';
import type { Smmuv3Registers } from './registers.ts';

/** GERROR bit that tells of an MSI which could not be written, by line. */
const ABORTED_MSI = [
  GERROR.MSI_EVENTQ_ABT_ERR,
  GERROR.MSI_PRIQ_ABT_ERR,
  GERROR.MSI_CMDQ_ABT_ERR,
  GERROR.MSI_GERROR_ABT_ERR,
] as const;
/** The IRQ_CFG0 register of a line; CMD_SYNC carries its message in the command. */
const IRQ_CFG0 = [PAGE0.EVENTQ_IRQ_CFG0.at, PAGE0.PRIQ_IRQ_CFG0.at, 0, PAGE0.GERROR_IRQ_CFG0.at] as const;

/**
 * Global errors and the device's interrupts (IHI 0070 §3.18, §7.5). A message is a 4-byte write to guest memory like any other;
 * the wired line of the source pulses regardless of whether a message is configured.
 */
export class Smmuv3Interrupts {
  readonly #regs: Smmuv3Registers;
  readonly #irq: InterruptPort;
  readonly #memory: Memory;
  readonly #tell: Tell | null;
  readonly #name: string;
  /** IDR0.MSI. */
  readonly #msi: boolean;

  constructor(regs: Smmuv3Registers, deps: Pick<Smmuv3Deps, 'irq' | 'memory' | 'tell'>, name: string) {
    this.#regs = regs;
    this.#irq = deps.irq;
    this.#memory = deps.memory;
    this.#tell = deps.tell;
    this.#name = name;
    this.#msi = (regs.get(PAGE0.IDR0.at) & (1 << 13)) !== 0;
  }

  /** Whether a global error waits for the guest's acknowledgement. */
  active(bit: number): boolean {
    return ((this.#regs.get(PAGE0.GERROR.at) ^ this.#regs.get(PAGE0.GERRORN.at)) & bit) !== 0;
  }

  /** Makes a global error active; one that is already active stays as it is. */
  raise(bit: number): void {
    if (this.active(bit)) return;
    this.#regs.set(PAGE0.GERROR.at, this.#regs.get(PAGE0.GERROR.at) ^ bit);
    if (this.#regs.irqEnabled(IRQ_CTRL.GERROR_IRQEN)) this.#signal(LINE.GERROR);
  }

  /** The queue has something for the guest. */
  eventQueue(): void {
    if (this.#regs.irqEnabled(IRQ_CTRL.EVENTQ_IRQEN)) this.#signal(LINE.EVTQ);
  }

  pageRequestQueue(): void {
    if (this.#regs.irqEnabled(IRQ_CTRL.PRIQ_IRQEN)) this.#signal(LINE.PRIQ);
  }

  /** Completion of a CMD_SYNC with CS=1; address 0 is the wired interrupt (IHI 0070 §4.7.3). */
  sync(address: number, data: number): void {
    if (this.#msi && address !== 0) this.#message(LINE.CMD_SYNC, address, data);
    this.#pulse(LINE.CMD_SYNC);
  }

  #signal(line: number): void {
    const at = IRQ_CFG0[line as 0 | 1 | 2 | 3];
    const address = this.#msi ? this.#regs.address(at, 2) : 0;
    if (address !== 0) this.#message(line, address, this.#regs.get(at + 8));
    this.#pulse(line);
  }

  /** RAM takes the write itself (a driver may poll for it), a doorbell makes an interrupt of it, other registers take it too. */
  #write(address: number, data: number): boolean {
    const memory = this.#memory;
    if (memory.locate(address)) return memory.store32(address, data);
    return this.#irq.message(address, data >>> 0) || memory.store32(address, data);
  }

  #pulse(line: number): void {
    if (this.#tell !== null) this.#tell({ what: 'irq', device: this.#name, line: LINE_NAMES[line as 0 | 1 | 2 | 3] });
    this.#irq.pulse(line);
  }

  #message(line: number, address: number, data: number): void {
    if (this.#tell !== null) {
      const name = LINE_NAMES[line as 0 | 1 | 2 | 3];
      this.#tell({ what: 'irq', device: this.#name, line: name, address, data: data >>> 0 });
    }
    // An address beyond 52 bits cannot occur; nothing answering is an abort, and no interrupt tells of the last kind.
    if (hiWord(address) >= 0 && this.#write(address, data)) return;
    const bit = ABORTED_MSI[line as 0 | 1 | 2 | 3];
    if (bit !== GERROR.MSI_GERROR_ABT_ERR) this.raise(bit);
    else if (!this.active(bit)) this.#regs.set(PAGE0.GERROR.at, this.#regs.get(PAGE0.GERROR.at) ^ bit);
  }
}
