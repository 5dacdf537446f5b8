import type { DeviceDescription } from '../host/device.ts';
import type { AtsPort, InterruptRemapPort, TranslatePort } from '../ports/dma.ts';
import type { MmioDevice } from '../ports/mmio.ts';
import type { EndpointRelay } from './hw-relay.ts';

/** A vIOMMU with everything under it, of either architecture, as the rest of a machine sees it. */
export interface IommuUnit {
  readonly name: string;
  /** The guest's register window. */
  readonly window: MmioDevice;
  readonly translate: TranslatePort;
  readonly ats: AtsPort;
  /** x86: interrupt remapping. */
  readonly remap: InterruptRemapPort | null;
  /** Where the hardware's messages to functions go. */
  readonly endpoints: EndpointRelay;
  /**
   * Puts a function behind the unit, also while the guest runs.
   * @param rids requester ids as the guest knows them. @param streams as the hardware does.
   * @returns takes it away.
   */
  attach(
    rids: readonly number[],
    streams: readonly number[],
    d: Omit<DeviceDescription, 'iommu' | 'streams'>,
  ): () => void;
  /** Machine reset, after all DMA has come to rest. */
  reset(): void;
  save(): unknown;
  load(state: unknown): void;
}
