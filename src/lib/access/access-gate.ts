/** Devices that may be inside each other's accesses at once; a chain of more is refused. */
const DEPTH_MAX = 8;
/**
 * What the accesses of one device may set in motion elsewhere: register accesses and requests that were caused by a device
 * which was itself reached by a device. Two engines with full rings could otherwise multiply their work.
 */
const CAUSED_MAX = 4096;

/** Units of work that the requests of functions may cost in one access: one each, and more for what they move. */
const DMA_WORK = 2048;
/** Units of a register access that a request of a function has become, and of each of several that count as one. */
const REACHED_WORK = 0.5;

/** What the gates of one machine share: how deep accesses lie in each other now, and how many came from inside. */
export class AccessNesting {
  /** Devices at work inside each other; 0: nobody is. */
  depth = 0;
  /** An IOMMU is reading registers: no request of a function gets through meanwhile. */
  sealed = 0;
  #caused = 0;
  #work = 0;
  #together = false;

  /** A device begins to work. @returns false: too deep, or too much has come from the inside of one access. */
  deeper(): boolean {
    if (this.depth === 0) {
      if (this.#together) this.#work += REACHED_WORK;
      else this.#caused = this.#work = 0;
    } else if (this.depth >= DEPTH_MAX || !this.more()) return false;
    this.depth++;
    return true;
  }

  /** Requests of functions, and what came of them, cost so many units of the access under way. */
  spend(units: number): void {
    this.#work += units;
  }

  /** The access under way has cost what one may: who has more to do goes on later. */
  get spent(): boolean {
    return (this.depth > 0 || this.#together) && this.#work >= DMA_WORK;
  }

  /** Accesses one after the other that may cost in all what one may: who makes them looks at `spent` after each. */
  together(accesses: () => void): void {
    if (this.depth > 0 || this.#together) {
      accesses();
      return;
    }
    this.#caused = this.#work = 0;
    this.#together = true;
    try {
      accesses();
    } finally {
      this.#together = false;
    }
  }

  /** Counts what was caused by a device that a device had reached. @returns false: too much. */
  more(): boolean {
    return this.depth < 2 || ++this.#caused <= CAUSED_MAX;
  }
}

/**
 * Stands before the registers of one device, on every way to them, and behind the requests it sends. While the device serves
 * an access or has a request under way, nobody else gets in: the access is refused, as QEMU's MemReentrancyGuard refuses it.
 * So a device never finds its state changed behind its back by its own DMA, and loops of several devices end.
 */
export class AccessGate {
  readonly #nesting: AccessNesting;
  /** The function that brought this one to life: its registers can take this one away. */
  readonly #parent: AccessGate | null;
  /** Accesses and requests under way. */
  #busy = 0;
  /** The same of functions that this one brought to life. */
  #busyBelow = 0;

  /** @param nesting the machine's. */
  constructor(nesting: AccessNesting, parent: AccessGate | null = null) {
    this.#nesting = nesting;
    this.#parent = parent;
  }

  /** Whether an access would be let in now. */
  get open(): boolean {
    return this.#busy === 0 && this.#busyBelow === 0;
  }

  /** An access to the device begins. @returns false: it is refused; else `leave` follows. */
  enter(): boolean {
    if (this.#busy !== 0 || this.#busyBelow !== 0 || !this.#nesting.deeper()) return false;
    // Somebody's request is behind it.
    if (this.#nesting.depth > 1) this.#nesting.spend(REACHED_WORK);
    this.#begin();
    return true;
  }

  /** See `AccessNesting.spend`. */
  spend(units: number): void {
    this.#nesting.spend(units);
  }

  /** See `AccessNesting.spent`. */
  get spent(): boolean {
    return this.#nesting.spent;
  }

  /** The access that `enter` let in is over. */
  leave(): void {
    this.#end();
    if (this.#busy === 0) this.#nesting.depth--;
  }

  /** The device does something of its own, as if it were an access. @returns false: it is refused, and nothing was done. */
  within(action: () => void): boolean {
    if (!this.enter()) return false;
    try {
      action();
    } finally {
      this.leave();
    }
    return true;
  }

  /** The device sends a request. @returns false: it is aborted; else `sent` follows. */
  send(): boolean {
    const nesting = this.#nesting;
    if (nesting.sealed !== 0 || !(this.#busy === 0 ? nesting.deeper() : nesting.more())) return false;
    this.#begin();
    return true;
  }

  /** The request is answered. */
  sent(): void {
    this.leave();
  }

  /** The device, an IOMMU, reads memory in the middle of a decision: nothing may ask it for another one meanwhile. */
  seal(): boolean {
    if (!this.send()) return false;
    this.#nesting.sealed++;
    return true;
  }

  /** The read is over. */
  unseal(): void {
    this.#nesting.sealed--;
    this.leave();
  }

  #begin(): void {
    this.#busy++;
    if (this.#parent !== null) this.#parent.#busyBelow++;
  }

  #end(): void {
    this.#busy--;
    if (this.#parent !== null) this.#parent.#busyBelow--;
  }
}
