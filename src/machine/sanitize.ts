import { type Finding, Sanitizer } from '../sanitize/index.ts';
import { EventParser } from '../trace/events.ts';
import { Place } from '../trace/fields.ts';
import { type TraceHeader, TraceRecorder } from '../trace/index.ts';

/** Events that tell guest memory. */
const MEMORY: ReadonlySet<string> = new Set(['page', 'st', 'drop']);

/** Which machine is judged. */
export interface SanitizedMachine {
  /** Which IOMMU the guest has. */
  readonly iommu: 'smmuv3' | 'vtd';
  /** Guest RAM, bytes. */
  readonly ram: readonly { readonly gpa: number; readonly size: number }[];
  /** Names for findings; `sid` is a StreamID or requester id, `ats`: the function has ATS. */
  readonly devices?: readonly { readonly name: string; readonly sid: number; readonly ats?: boolean }[];
}

interface FollowedFunction {
  readonly sid: () => number;
  readonly enabled: () => boolean;
  was: boolean;
}

/**
 * Judges the driver of a machine that runs, and tells its recorder which pages hold tables. The recorder goes into the machine
 * as any recorder does: memory is compared before every event, which leaves unsaid in which order the stores between two
 * events came (`unjudged` names the rules that need it); whoever sees the guest's stores tells them with `stored`, and all
 * rules are judged.
 */
export class MachineSanitizer {
  /** Goes into the machine: its `tell`, `device`, `translate`, `ats` and `watch`. */
  readonly recorder: TraceRecorder;
  readonly #sanitizer: Sanitizer;
  readonly #functions = new Set<FollowedFunction>();

  /** @param recorder the one that records the machine anyway; default: one that keeps nothing. */
  constructor(machine: SanitizedMachine, recorder = new TraceRecorder(machine.iommu, false)) {
    this.recorder = recorder;
    const devices = (machine.devices ?? []).map((d) => ({ ...d, ats: d.ats ?? false }));
    this.#sanitizer = new Sanitizer({ iommu: machine.iommu, ram: machine.ram, devices });
    const place = new Place('machine');
    const parser = new EventParser(place, headerOf(machine));
    recorder.listen((event) => {
      place.event = Number(event.i);
      const seen = parser.parse(event);
      if (!MEMORY.has(seen.t)) this.#lookAtFunctions(place.event);
      this.#sanitizer.event(seen);
    });
    recorder.follow(this.#sanitizer);
  }

  /** The guest stores 1 to 8 bytes within an aligned word of 8. */
  stored(gpa: number, size: number, lo: number, hi: number): void {
    this.recorder.stored(gpa, size, lo, hi);
  }

  /**
   * From now on the function's ATS Enable is looked at before every event: `ats-order` is judged.
   * @param sid StreamID or requester id, as the guest names it now. @returns ends that.
   */
  follow(sid: () => number, enabled: () => boolean): () => void {
    const f = { sid, enabled, was: false };
    this.#functions.add(f);
    return () => void this.#functions.delete(f);
  }

  #lookAtFunctions(i: number): void {
    for (const f of this.#functions) {
      const on = f.enabled();
      if (on === f.was) continue;
      f.was = on;
      this.#sanitizer.event({ t: 'ats', i, sid: f.sid(), on });
    }
  }

  /** What the driver did wrong, oldest first. Call it when the driver is done. */
  findings(): Finding[] {
    this.recorder.catchUp();
    return this.#sanitizer.finish();
  }

  /** Rules that could not be judged, by reason; after `findings`. */
  unjudged(): ReadonlyMap<string, ReadonlySet<string>> {
    return this.#sanitizer.findings.unjudged();
  }
}

/** What the parser of events needs of a header. */
function headerOf(machine: SanitizedMachine): TraceHeader {
  return {
    iommu: machine.iommu,
    cmdline: '',
    guestKernel: '',
    scenario: '',
    commands: null,
    mmio: { base: 0, size: 0x100_0000 },
    ram: machine.ram,
    devices: [],
  };
}
