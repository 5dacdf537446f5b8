import { EVENT_NAMES } from '../../../src/spec/smmuv3/events.ts';

/** An event of a recording, before it has its number. */
export interface LoggedEvent {
  readonly t: string;
  readonly [field: string]: unknown;
}

/** A fault whose record has not been seen: QEMU tells of type and stream alone. */
interface OpenFault {
  readonly event: { t: string; [field: string]: unknown };
  /** Register accesses since. */
  age: number;
}

/** Of a 32-byte event record (Arm IHI 0070 §7.3): where the fields lie that a recording has. */
const RECORD = { ssv: 11n, ssid: 12n, sid: 32n, rnw: 35n } as const;
/** A record is in memory when the guest's next access is told; a fault without one has none. */
const MOST_AGE = 2;

/**
 * Puts events in order. What happens between QEMU's line about a register access and the plugin's belongs behind the
 * access, and a fault of an SMMUv3 waits for its record, which completes it.
 */
export class Collector {
  readonly #out: (e: LoggedEvent) => void;
  #held: LoggedEvent[] | null = null;
  #heldFault = false;
  readonly #open: OpenFault[] = [];
  /** What follows the oldest open fault. */
  #after: LoggedEvent[] = [];
  /** Records that no fault was told for, and faults that got none. */
  unpaired = 0;

  constructor(out: (e: LoggedEvent) => void) {
    this.#out = out;
  }

  /** From now on until `access` things belong behind it. */
  hold(): void {
    this.flush();
    this.#held = [];
  }

  get holding(): boolean {
    return this.#held !== null;
  }

  /** What a device did. */
  add(e: LoggedEvent): void {
    if (this.#held === null) this.#emit(e);
    else {
      this.#held.push(e);
      this.#heldFault ||= e.t === 'fault';
    }
  }

  /** A refused access whose record completes it. */
  fault(sid: number, type: string): void {
    const event = { t: 'fault', sid, type };
    this.#open.push({ event, age: 0 });
    this.add(event);
  }

  /** What a processor did, or what memory holds: nothing held comes before it. */
  now(e: LoggedEvent): void {
    this.#emit(e);
  }

  /** A register access; what was held follows it. */
  access(e: LoggedEvent): void {
    this.#emit(e);
    this.flush();
    for (const f of this.#open) f.age++;
    while ((this.#open[0]?.age ?? 0) > MOST_AGE) this.#complete(null);
  }

  /** A record that the SMMU wrote. */
  record(gpa: string, data: Buffer): void {
    const e = { t: 'dst', gpa, data: data.toString('base64') };
    const w0 = data.readBigUInt64LE(0);
    const matching = this.#open[0]?.event.sid === Number(w0 >> RECORD.sid);
    if (!matching) this.unpaired++;
    if (this.#held !== null && this.#heldFault) this.#held.push(e);
    else this.#emit(e);
    if (matching) this.#complete(data);
  }

  /** The oldest open fault is complete, with or without a record. */
  #complete(data: Buffer | null): void {
    const { event } = this.#open.shift()!;
    const short = String(event.type).replace(/^SMMU_EVT_/, '');
    event.type = short;
    if (data === null) {
      this.unpaired++;
      const code = [...EVENT_NAMES].find(([, name]) => name === short)?.[0];
      Object.assign(event, { ...(code === undefined ? {} : { code }), iova: '0x0', write: false, recorded: false });
    } else {
      const w0 = data.readBigUInt64LE(0);
      const code = Number(w0 & 0xffn);
      event.type = EVENT_NAMES.get(code) ?? short;
      event.code = code;
      event.iova = `0x${data.readBigUInt64LE(16).toString(16)}`;
      event.write = ((data.readBigUInt64LE(8) >> RECORD.rnw) & 1n) === 0n;
      event.recorded = true;
      if (((w0 >> RECORD.ssv) & 1n) === 1n) event.ssid = Number((w0 >> RECORD.ssid) & 0xf_ffffn);
    }
    const waiting = this.#after;
    this.#after = [];
    for (const e of waiting) this.#emit(e);
  }

  #emit(e: LoggedEvent): void {
    const first = this.#open[0];
    // What comes behind a fault that waits, waits as well.
    if (first === undefined) this.#out(e);
    else if (e === first.event || this.#after.length > 0) this.#after.push(e);
    else this.#out(e);
  }

  /** What is held goes out. */
  flush(): void {
    const held = this.#held;
    this.#held = null;
    this.#heldFault = false;
    for (const e of held ?? []) this.#emit(e);
  }

  /** There is no more. */
  end(): void {
    this.flush();
    while (this.#open.length > 0) this.#complete(null);
  }
}
