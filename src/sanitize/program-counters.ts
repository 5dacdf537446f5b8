import { toBigint } from '../core/bits.ts';

/** Stores whose program counter is remembered: the last ones. */
const REMEMBERED = 1 << 16;

/** Program counters of the guest's last stores, by event number. */
export class ProgramCounters {
  #events: Float64Array | null = null;
  #lo: Int32Array | null = null;
  #hi: Int32Array | null = null;

  add(event: number, lo: number, hi: number): void {
    this.#events ??= new Float64Array(REMEMBERED).fill(-1);
    this.#lo ??= new Int32Array(REMEMBERED);
    this.#hi ??= new Int32Array(REMEMBERED);
    const at = event % REMEMBERED;
    this.#events[at] = event;
    this.#lo[at] = lo;
    this.#hi[at] = hi;
  }

  /** Null: there was none, or too many came after it. */
  get(event: number): bigint | null {
    const at = event % REMEMBERED;
    return this.#events?.[at] === event ? toBigint(this.#lo![at]!, this.#hi![at]!) : null;
  }
}
