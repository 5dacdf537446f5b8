import type { VfioDevice } from '../../src/ports/iommufd.ts';
import { STE_WORDS } from '../../src/spec/smmuv3/ste.ts';
import type { AttachedDevice } from './deps.ts';
import type { NestedContext, Smmuv3Domain } from './domains.ts';
import type { Smmuv3Shadow } from './shadow.ts';

/** What the hardware does with a device's streams. */
export type StreamState = 'unset' | 'policy' | 'abort' | 'bypass' | 's1' | 's2' | 'nested';

/** A device behind the vSMMU: its streams, and what stands for their configuration on the host. */
export class Smmuv3Stream {
  readonly sids: readonly number[];
  readonly vfio: VfioDevice;
  state: StreamState = 'unset';
  /** The entry in force (valid in abort, bypass, s1, s2, nested) and the StreamID it was read for. */
  readonly ste = new Int32Array(STE_WORDS);
  sid = 0;
  vdeviceId = 0;
  vdeviceIn: Smmuv3Domain | null = null;
  context: NestedContext | null = null;
  /** The shadow attached directly (stage 2 only). */
  domain: Smmuv3Domain | null = null;
  unserve: () => void = () => {};

  constructor(device: AttachedDevice) {
    this.sids = device.sids;
    this.vfio = device.vfio;
    this.sid = device.sids[0]!;
  }

  /** The guest's StreamID of the device's physical stream `index`. */
  sidOf(index: number): number {
    return this.sids[index] ?? this.sids[0]!;
  }

  /** The host's copy of the guest's stage 2 that its accesses go through; null: they go through none. */
  get shadow(): Smmuv3Shadow | null {
    return (this.context?.domain ?? this.domain)?.shadow ?? null;
  }
}

/** A device's streams as plain data: what the guest made of them, without host objects. */
export interface StreamSaved {
  readonly sids: number[];
  readonly state: StreamState;
  readonly ste: number[];
  readonly sid: number;
  /** A command has tied the StreamID to the device. */
  readonly tied: boolean;
}
