import type { VfioDevice } from '../../src/ports/iommufd.ts';
import { STE_WORDS } from '../../src/spec/smmuv3/ste.ts';
import type { NestedContext, Smmuv3Domain } from './domains.ts';
import type { Smmuv3Shadow } from './shadow.ts';

/** What the hardware does with a stream. */
export type StreamState = 'unset' | 'policy' | 'abort' | 'bypass' | 's1' | 's2' | 'nested';

/** A device behind the vSMMU. Each of its StreamIDs has a configuration of its own. */
export interface Smmuv3StreamDevice {
  readonly vfio: VfioDevice;
  /** In the order of the device's physical streams. */
  readonly streams: readonly Smmuv3Stream[];
  /** The host has one configuration for all streams, and they are several. */
  readonly shared: boolean;
  /** What a shared device is attached to as a whole; 0: nothing. */
  hwptId: number;
  unserve: () => void;
  /** The host's name of its isolation group; undefined: it is alone. */
  readonly groupName: string | undefined;
  /** All devices of its isolation group, with itself: on the host they are where one of them is. */
  group: ReadonlySet<Smmuv3StreamDevice>;
}

/** One StreamID of a device, and what stands for its configuration on the host. */
export class Smmuv3Stream {
  readonly device: Smmuv3StreamDevice;
  /** Index among the device's streams. */
  readonly index: number;
  /** The StreamID as the guest knows it. */
  readonly sid: number;
  state: StreamState = 'unset';
  /** The entry in force (valid in abort, bypass, s1, s2, nested). */
  readonly ste = new Int32Array(STE_WORDS);
  /** Whether the host took that entry when it was last asked to. */
  settled = false;
  vdeviceId = 0;
  vdeviceIn: Smmuv3Domain | null = null;
  /** What is attached; 0: nothing. Another device of its group may have been moved since, and it with that one. */
  hwptId = 0;
  /** What it asked for itself when it was attached last. */
  ownHwptId = 0;
  context: NestedContext | null = null;
  /** The shadow attached directly (stage 2 only). */
  domain: Smmuv3Domain | null = null;

  /** The host refused to map what the last miss asked for; counts for the fault that follows. */
  missRefused = false;

  /** Stamp of the last CFGI_STE_RANGE or switch that went through it. */
  round = 0;

  constructor(device: Smmuv3StreamDevice, index: number, sid: number) {
    this.device = device;
    this.index = index;
    this.sid = sid;
  }

  get vfio(): VfioDevice {
    return this.device.vfio;
  }

  /** See `Smmuv3StreamDevice`. */
  get shared(): boolean {
    return this.device.shared;
  }

  /** The host's copy of the guest's stage 2 that its accesses go through; null: they go through none. */
  get shadow(): Smmuv3Shadow | null {
    return (this.context?.domain ?? this.domain)?.shadow ?? null;
  }
}

/** A stream as plain data: what the guest made of it, without host objects. */
export interface StreamSaved {
  readonly sid: number;
  readonly state: StreamState;
  readonly ste: number[];
  /** A command has tied the StreamID to the device. */
  readonly tied: boolean;
}
