import { PRG } from '../../src/spec/pcie/messages.ts';
import type { Smmuv3Core } from './core.ts';
import type { Smmuv3Stream } from './stream.ts';

interface Stalled {
  readonly stream: Smmuv3Stream;
  readonly stag: number;
  readonly pasid: number;
}

/** Transactions the hardware holds until the guest decides (IHI 0070 §3.12.2): by stream and STAG. */
export class Smmuv3Stalls {
  readonly #core: Smmuv3Core;
  #list: Stalled[] = [];

  constructor(core: Smmuv3Core) {
    this.#core = core;
  }

  get size(): number {
    return this.#list.length;
  }

  add(s: Smmuv3Stream, stag: number, pasid: number): void {
    this.#list.push({ stream: s, stag, pasid });
  }

  /** CMD_RESUME; an unknown STAG is nothing. @param code PRG code. */
  answer(s: Smmuv3Stream, stag: number, code: number): void {
    const at = this.#list.findIndex((x) => x.stream === s && x.stag === stag);
    if (at >= 0) this.#end(at, code);
  }

  /** CMD_STALL_TERM, or the device leaves. */
  terminate(s: Smmuv3Stream): void {
    for (let i = this.#list.length - 1; i >= 0; i--) if (this.#list[i]!.stream === s) this.#end(i, PRG.FAILURE);
  }

  /** SMMUEN 1→0, or reset. */
  terminateAll(): void {
    for (let i = this.#list.length - 1; i >= 0; i--) this.#end(i, PRG.FAILURE);
  }

  #end(at: number, code: number): void {
    const { stream, stag, pasid } = this.#list.splice(at, 1)[0]!;
    const answered = this.#core.deps.upcalls?.respond(stream.vfio.devId, pasid, stag, code, true, stream.index) ?? 0;
    this.#core.refusals.note('stall', answered);
  }
}
