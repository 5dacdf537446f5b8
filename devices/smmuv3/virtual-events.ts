import type { HostVerbs } from '../../src/lib/uapi/host-verbs.ts';
import { EVENT_BYTES, EVENT_WORDS } from '../../src/spec/smmuv3/events.ts';
import type { Smmuv3Domain } from './domains.ts';

/** struct iommufd_vevent_header: flags, sequence. */
const HEADER_BYTES = 8;
/** Reads per readiness: the kernel's queue is never longer. */
const READS_MAX = 1 << 16;

/**
 * Opens the kernel's event queue of a vIOMMU and hands its records on. A record carries the guest's StreamID already; a
 * header alone tells of lost ones, which the guest cannot be told about.
 */
export function listenForEvents(
  host: HostVerbs,
  domain: Smmuv3Domain,
  depth: number,
  record: (event: Int32Array) => void,
): number {
  const made = host.smmuv3EventQueue(domain.viommuId, depth);
  if (typeof made === 'number') return made;
  const bytes = new Uint8Array(HEADER_BYTES + EVENT_BYTES);
  const view = new DataView(bytes.buffer);
  const event = new Int32Array(EVENT_WORDS);
  domain.veventqId = made.id;
  domain.eventFd = made.fd;
  made.fd.onReadable = () => {
    for (let i = 0; i < READS_MAX; i++) {
      const n = made.fd.read(bytes);
      if (n <= 0) return;
      if (n < bytes.length) continue;
      for (let w = 0; w < EVENT_WORDS; w++) event[w] = view.getInt32(HEADER_BYTES + 4 * w, true);
      record(event);
    }
  };
  return 0;
}
