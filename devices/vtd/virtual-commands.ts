import { DRAINED, type PasidDrain } from '../../src/lib/pasid/pasid-drain.ts';
import { PAGE, VCMD, VCRSP, type VirtualCommand } from '../../src/spec/vtd/registers.ts';
import type { VtdCore } from './core.ts';
import type { VtdDeps } from './deps.ts';
import type { VtdRegisters } from './registers.ts';

/** VCRSP.IP: a command is under way. */
const VCRSP_IP = 1;

/**
 * The virtual command interface (VT-d §11.4.16): a guest allocates and frees PASIDs, with or without an address space
 * behind them. Values run from 1 to 2^bits - 1; 0 is reserved. Commands complete at once, or after `vcmdDelay` with IP set.
 */
export class VirtualCommands {
  readonly #regs: VtdRegisters;
  readonly #freed: (pasid: number) => void;
  readonly #limit: number;
  readonly #drain: PasidDrain;
  /** One bit per PASID: allocated, or freed and not yet drained. */
  readonly #used: Int32Array;
  readonly #draining = new Set<number>();
  /** No free PASID below this one. */
  #hint = 1;
  readonly #delay: number;
  readonly #after: VtdDeps['after'];
  /** Takes the end of the command under way back; null: there is none. */
  #cancel: (() => void) | null = null;

  /** @param freed called before a freed PASID can be given out again. */
  constructor(core: VtdCore, freed: (pasid: number) => void) {
    this.#regs = core.registers;
    this.#delay = core.deps.properties.vcmdDelay;
    this.#after = core.deps.after;
    this.#freed = freed;
    this.#drain = core.deps.drain ?? DRAINED;
    this.#limit = 2 ** core.features.pasidBits;
    this.#used = new Int32Array(Math.max(1, this.#limit >>> 5));
  }

  /** PASIDs are below this. */
  get limit(): number {
    return this.#limit;
  }

  /** VCMD was written (its high word, when it comes in halves). */
  written(): void {
    // Software has to wait for IP to clear: what it writes before is no command (§11.4.16.1).
    if (this.#cancel !== null) return;
    this.#begin(this.#regs.get(PAGE.VCMD.at), this.#regs.get(PAGE.VCMD.at + 4));
  }

  #begin(lo: number, hi: number): void {
    if (this.#delay === 0 || this.#after === undefined) {
      this.#execute(lo, hi);
      return;
    }
    this.#regs.set(PAGE.VCRSP.at, VCRSP_IP);
    this.#regs.set(PAGE.VCRSP.at + 4, 0);
    this.#cancel = this.#after(this.#delay, () => {
      this.#cancel = null;
      this.#execute(lo, hi);
    });
  }

  #execute(lo: number, hi: number): void {
    let status: number = VCRSP.OK;
    let pasid = 0;
    const command = (lo & 0xff) as VirtualCommand;
    switch (command) {
      case VCMD.NULL:
        break;
      case VCMD.ALLOC_PASID:
        pasid = this.allocate();
        if (pasid < 0) status = VCRSP.NO_PASID;
        break;
      case VCMD.FREE_PASID:
        if (!this.free(((lo >>> 16) | (hi << 16)) & 0xf_ffff)) status = VCRSP.INVALID_PASID;
        break;
      default:
        status = undefinedCommand(command);
    }
    this.#answer(status, Math.max(pasid, 0));
  }

  #answer(status: number, pasid: number): void {
    this.#regs.set(PAGE.VCRSP.at, (status << 1) | (pasid << 16));
    this.#regs.set(PAGE.VCRSP.at + 4, pasid >>> 16);
  }

  /** @returns the lowest free PASID, -1 when none is left. */
  allocate(): number {
    for (let p = this.#hint; p < this.#limit; p++) {
      if (this.#taken(p)) continue;
      this.#used[p >>> 5]! |= 1 << (p & 31);
      this.#hint = p + 1;
      return p;
    }
    this.#hint = this.#limit;
    return -1;
  }

  /** @returns false when `pasid` was not allocated. */
  free(pasid: number): boolean {
    if (pasid < 1 || pasid >= this.#limit || !this.inUse(pasid)) return false;
    this.#freed(pasid);
    this.#draining.add(pasid);
    this.#drain.drain(pasid, () => {
      if (!this.#draining.delete(pasid)) return;
      this.#used[pasid >>> 5]! &= ~(1 << (pasid & 31));
      this.#hint = Math.min(this.#hint, pasid);
    });
    return true;
  }

  #taken(pasid: number): boolean {
    return ((this.#used[pasid >>> 5] ?? 0) & (1 << (pasid & 31))) !== 0;
  }

  /** Allocated: a freed one is not, although it may still be draining. */
  inUse(pasid: number): boolean {
    return this.#taken(pasid) && !this.#draining.has(pasid);
  }

  reset(): void {
    this.#cancel?.();
    this.#cancel = null;
    this.#draining.clear();
    this.#used.fill(0);
    this.#hint = 1;
  }

  /** The allocated PASIDs: local ones, the state a migration carries. */
  save(): number[] {
    const out: number[] = [];
    for (let p = 1; p < this.#limit; p++) if (this.inUse(p)) out.push(p);
    return out;
  }

  /** The registers are loaded: a command that was under way begins anew. */
  load(pasids: readonly number[]): void {
    this.reset();
    for (const p of pasids) if (p >= 1 && p < this.#limit) this.#used[p >>> 5]! |= 1 << (p & 31);
    if ((this.#regs.get(PAGE.VCRSP.at) & VCRSP_IP) === 0) return;
    this.#begin(this.#regs.get(PAGE.VCMD.at), this.#regs.get(PAGE.VCMD.at + 4));
  }
}

/** A code that no virtual command has. A command of the specification without a case above does not compile here. */
function undefinedCommand(_command: never): number {
  return VCRSP.UNDEFINED;
}
