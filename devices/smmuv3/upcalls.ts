import { HW_ERROR } from '../../src/ports/hw.ts';
import type { UpcallHandlers } from '../../src/ports/upcalls.ts';
import { EVENT_WORDS, evStall } from '../../src/spec/smmuv3/events.ts';
import type { Smmuv3Core } from './core.ts';
import type { Smmuv3Faults } from './faults.ts';
import type { Smmuv3PageRequests } from './page-requests.ts';
import type { Smmuv3Records } from './records.ts';
import type { Smmuv3Stalls } from './stalls.ts';
import type { Smmuv3Streams } from './streams.ts';

/** Who handles what the host tells a vSMMUv3 beyond Linux. */
export interface Smmuv3UpcallTargets {
  readonly core: Smmuv3Core;
  readonly streams: Smmuv3Streams;
  readonly faults: Smmuv3Faults;
  readonly records: Smmuv3Records;
  readonly pageRequests: Smmuv3PageRequests;
  readonly stalls: Smmuv3Stalls;
  /** An ATS invalidation was not answered in time. */
  readonly timedOut: () => void;
  /** The last outstanding invalidation was answered: a waiting CMD_SYNC can complete. */
  readonly drained: () => void;
}

/** Misses, faults, page requests and completions on their way from the host to the parts of the device. */
export function smmuv3Upcalls(t: Smmuv3UpcallTargets): UpcallHandlers {
  const record = new Int32Array(EVENT_WORDS);
  return {
    onStreamMiss: (devId, stream) => t.streams.firstUse(devId, stream),
    onStageTwoMiss: (devId, stream, _pasid, ipa, access) => {
      const s = t.streams.ofDevice(devId, stream);
      const shadow = s?.shadow ?? null;
      if (s === undefined || shadow === null) return false;
      const mapped = shadow.fill(ipa, access);
      s.missRefused = !mapped && shadow.missRefused;
      return mapped;
    },
    onFault: (devId, stream, raw, ats = false) => {
      const s = t.streams.ofDevice(devId, stream);
      if (s === undefined || (ats && !t.faults.recordsAts)) return;
      record.set(raw.subarray(0, EVENT_WORDS));
      const refused = s.missRefused;
      s.missRefused = false;
      if (evStall(record)) t.stalls.begin(s, record, refused);
      else if (t.faults.attribute(s, record, refused)) t.records.record(t.faults.record, t.faults.merge);
    },
    onPageRequest: (devId, stream, raw) => {
      const s = t.streams.ofDevice(devId, stream);
      if (s === undefined || !t.core.deps.properties.pri) return false;
      t.pageRequests.receive(s, raw);
      return true;
    },
    onInvalidateError: (_devId, error) => {
      if (error === HW_ERROR.ATC_TIMEOUT) t.timedOut();
    },
    onDrained: t.drained,
    onAwaited: (change) => {
      t.core.quotas.invalidations.used += change;
    },
  };
}
