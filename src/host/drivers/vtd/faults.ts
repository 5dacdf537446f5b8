import { frcd } from '../../../spec/vtd/faults.ts';
import type { HostDevice } from '../../kernel/driver.ts';
import type { DriverUpcalls } from '../../upcalls/driver-upcalls.ts';

/** Fault records the kernel's log keeps. */
const LOG = 256;

export interface VtdDriverFaultsParts {
  readonly upcalls: DriverUpcalls | null;
  readonly deviceOf: (rid: number) => HostDevice | null;
}

/** The kernel's fault interrupt handler. */
export class VtdDriverFaults {
  /** Unrecoverable faults end in the host's log and nowhere else, as far as Linux goes. Newest last. */
  readonly log: Int32Array[] = [];
  readonly #upcalls: DriverUpcalls | null;
  readonly #deviceOf: (rid: number) => HostDevice | null;

  constructor(parts: VtdDriverFaultsParts) {
    this.#upcalls = parts.upcalls;
    this.#deviceOf = parts.deviceOf;
  }

  /** A fault record, 4 words. */
  report(record: Int32Array): void {
    this.log.push(record);
    if (this.log.length > LOG) this.log.shift();
    const rid = frcd.sid(record[2]!);
    const dev = this.#deviceOf(rid);
    if (dev !== null) this.#upcalls?.fault(dev, dev.streams.indexOf(rid), record);
  }
}
