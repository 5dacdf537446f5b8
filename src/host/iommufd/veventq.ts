import { FAILURE_STEP, type FailureSource } from '../../ports/failures.ts';
import type { EventFd } from '../../ports/iommufd.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { VEVENTQ_FLAG } from '../../spec/iommufd/uapi.ts';
import { POLL } from './fault-queue.ts';
import type { Viommu } from './viommu.ts';

const HEADER = 8;

/** What an event queue is made of. */
export interface VeventQueueParts {
  readonly viommu: Viommu;
  /** VEVENTQ type; one queue per type and vIOMMU. */
  readonly type: number;
  /** Events it holds before it loses some. */
  readonly depth: number;
  readonly source: FailureSource;
  /** The file was closed for good. */
  readonly onClose: () => void;
}

interface Vevent {
  readonly sequence: number;
  readonly data: Uint8Array;
}

/**
 * A queue of events for the guest behind one vIOMMU, and its file. Sequence numbers count every event that was offered;
 * when the queue is full a header without data, flagged LOST_EVENTS, stands at the tail until an event is accepted again.
 */
export class VeventQueue {
  readonly kind = 'veventq';
  id = 0;
  users = 1;
  readonly type: number;
  readonly #viommu: Viommu;
  readonly #depth: number;
  readonly #source: FailureSource;
  readonly fd: EventFd;
  readonly #events: Vevent[] = [];
  #head = 0;
  /** Sequence number of the LOST header at the tail; -1: there is none. */
  #lost = -1;
  #sequence = 0;

  constructor(parts: VeventQueueParts) {
    const { viommu, onClose } = parts;
    this.#viommu = viommu;
    this.type = parts.type;
    this.#depth = parts.depth;
    this.#source = parts.source;
    viommu.users++;
    viommu.veventqs.push(this);
    const closed = { value: false };
    this.fd = {
      read: (into) => this.#read(into),
      write: () => -E.INVAL,
      poll: () => (this.#empty ? 0 : POLL.IN),
      onReadable: null,
      close: () => {
        if (closed.value) return;
        closed.value = true;
        this.users--;
        onClose();
      },
    };
  }

  get #empty(): boolean {
    return this.#head === this.#events.length && this.#lost < 0;
  }

  /** Takes an event in, or counts it as lost. `data` is copied. */
  offer(data: Uint8Array): void {
    const was = this.#empty;
    const sequence = this.#sequence;
    this.#sequence = sequence === 0x7fff_ffff ? 0 : sequence + 1;
    const full = this.#events.length - this.#head >= this.#depth;
    if (full || this.#source.failures?.fails(FAILURE_STEP.EVENT)) {
      this.#lost = sequence;
    } else {
      this.#lost = -1;
      this.#events.push({ sequence, data: data.slice() });
    }
    if (was) this.fd.onReadable?.();
  }

  #read(into: Uint8Array): number {
    if (into.length < HEADER) return -E.INVAL;
    const view = new DataView(into.buffer, into.byteOffset, into.length);
    let done = 0;
    while (this.#head < this.#events.length) {
      const e = this.#events[this.#head]!;
      if (into.length - done < HEADER) return done;
      if (into.length - done < HEADER + e.data.length) return done === 0 ? -E.INVAL : done;
      view.setUint32(done, 0, true);
      view.setUint32(done + 4, e.sequence, true);
      into.set(e.data, done + HEADER);
      done += HEADER + e.data.length;
      this.#head++;
      if (this.#head >= 64 && this.#head * 2 >= this.#events.length) {
        this.#events.splice(0, this.#head);
        this.#head = 0;
      }
    }
    if (this.#lost >= 0 && into.length - done >= HEADER) {
      view.setUint32(done, VEVENTQ_FLAG.LOST_EVENTS, true);
      view.setUint32(done + 4, this.#lost, true);
      this.#lost = -1;
      done += HEADER;
    }
    return done;
  }

  /** Test hook for the wrap of the sequence number after 2^31 events. */
  startSequenceAt(sequence: number): void {
    this.#sequence = sequence;
  }

  destroy(): void {
    const { veventqs } = this.#viommu;
    veventqs.splice(veventqs.indexOf(this), 1);
    this.#viommu.users--;
  }
}
