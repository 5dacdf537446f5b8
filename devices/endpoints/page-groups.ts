import type { PriCapability } from '../../src/lib/pci/ats.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import type { Upstream } from '../../src/ports/pci.ts';
import { PRG } from '../../src/spec/pcie/messages.ts';

/** Page request groups are named by 9 bits. */
export const GROUPS = 512;

interface Waiting {
  readonly pasid: number;
  readonly done: (code: number) => void;
}

/** The page request groups of a function that wait for their response (PCIe ATS §10.4): one page each. */
export class PageGroups {
  /** Group of the last request. */
  group = -1;
  /** Group the next request tries first. */
  next = 0;
  readonly #pri: PriCapability;
  readonly #waiting = new Map<number, Waiting>();

  constructor(pri: PriCapability) {
    this.#pri = pri;
  }

  /** Requests without an answer. */
  get outstanding(): number {
    return this.#waiting.size;
  }

  /**
   * Asks for one page.
   * @param access what is wanted. @param done gets the response code, perhaps before this returns.
   * @returns false: the function may not ask (PRI off, allocation used up).
   */
  ask(
    upstream: Upstream,
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    done: (code: number) => void,
  ): boolean {
    if (!this.#pri.enabled || this.#waiting.size >= Math.min(this.#pri.allocation, GROUPS)) return false;
    while (this.#waiting.has(this.next)) this.next = (this.next + 1) % GROUPS;
    const group = this.next;
    this.next = (group + 1) % GROUPS;
    this.#waiting.set(group, { pasid, done });
    this.group = group;
    upstream.pageRequest(pasid, lo & -4096, hi, access, group, true);
    return true;
  }

  /** After loading a saved state: whoever asked waits again. */
  await(pasid: number, group: number, done: (code: number) => void): void {
    this.#waiting.set(group, { pasid, done });
  }

  /** The response to a group. One that nobody waits for is an unexpected page request group index (PCIe ATS §10.5.2). */
  respond(pasid: number, group: number, code: number): void {
    const asked = this.#waiting.get(group);
    if (asked === undefined || (pasid !== NO_PASID && asked.pasid !== pasid)) {
      this.#pri.unexpectedIndex();
      return;
    }
    this.#waiting.delete(group);
    if (code === PRG.SUCCESS || code === PRG.INVALID) {
      asked.done(code);
      return;
    }
    // Response Failure: the interface is off, and nothing that waits will be answered any more (PCIe ATS §10.4.2).
    this.#pri.responseFailure();
    const all = [...this.#waiting.values()];
    this.#waiting.clear();
    asked.done(PRG.FAILURE);
    for (const w of all) w.done(PRG.FAILURE);
  }

  /** Everything that waits is given up; nobody is told. */
  clear(): void {
    this.#waiting.clear();
  }
}
