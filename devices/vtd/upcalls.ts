import type { MachineQuotas } from '../../src/lib/limits/machine-limits.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import { HW_ERROR } from '../../src/ports/hw.ts';
import type { UpcallHandlers } from '../../src/ports/upcalls.ts';
import { frcd } from '../../src/spec/vtd/faults.ts';
import type { VtdFaults } from './faults.ts';
import type { VtdPageRequests } from './page-requests.ts';
import type { VtdStreams } from './streams.ts';

/** Who handles what the host tells a vVT-d beyond Linux. */
export interface VtdUpcallTargets {
  readonly quotas: MachineQuotas;
  readonly streams: VtdStreams;
  readonly faults: VtdFaults;
  readonly pageRequests: VtdPageRequests;
  /** A device-TLB invalidation of a requester was not answered in time. */
  readonly timedOut: (rid: number) => void;
  /** A requester completed a device-TLB invalidation that it was not asked for. */
  readonly unexpected: (rid: number) => void;
  /** The last outstanding invalidation was answered: waiting wait descriptors can complete. */
  readonly drained: () => void;
}

/** Misses, faults, page requests and completions on their way from the host to the parts of the device. */
export function vtdUpcalls(t: VtdUpcallTargets): UpcallHandlers {
  return {
    onStreamMiss: (devId, stream, pasid) => t.streams.firstUse(devId, stream, pasid),
    onStageTwoMiss: (devId, stream, pasid, ipa, access) => {
      const s = t.streams.find(devId, stream, pasid);
      const domain = s?.slots.get(t.streams.pasid)?.domain;
      const shadow = domain?.kind === 'second' ? domain.shadow : domain?.kind === 'first' ? domain.first.parent : null;
      if (s === undefined || shadow === null || shadow === undefined) return false;
      const mapped = shadow.miss(ipa, access);
      s.missRefused = !mapped && shadow.missRefused;
      s.missed.ipa = ipa;
      s.missed.reason = mapped || s.missRefused ? 0 : shadow.refusal(ipa, access);
      return mapped;
    },
    onFault: (devId, stream, record) => {
      const s = t.streams.find(devId, stream, frcd.pasid(record[2]!, record[3]!));
      if (s === undefined) return;
      const { pasid } = t.streams;
      const slot = s.slots.get(pasid);
      const refused = s.unsettled.has(pasid) ? 'entry' : s.missRefused ? 'table' : null;
      s.missRefused = false;
      const shadowed = slot?.domain.kind !== 'first';
      const configuration = slot?.configuration ?? null;
      t.faults.fault({ rid: s.rid, pasid, configuration, shadowed, refused, missed: s.missed }, record);
      s.missed.reason = 0;
    },
    onPageRequest: (devId, stream, record) => t.pageRequests.receive(devId, stream, record),
    onInvalidateError: (devId, error, stream, pasid = NO_PASID) => {
      const rid = t.streams.ridOf(devId, stream, pasid);
      if (rid < 0) return;
      if (error === HW_ERROR.ATC_TIMEOUT) t.timedOut(rid);
      else if (error === HW_ERROR.UNEXPECTED_COMPLETION) t.unexpected(rid);
    },
    onDrained: t.drained,
    onAwaited: (change) => {
      t.quotas.invalidations.used += change;
    },
  };
}
