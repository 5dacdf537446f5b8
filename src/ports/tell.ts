/**
 * The words for everything that happens between the rooms. A hook is null while nobody listens, and then costs one
 * comparison: `if (this.#tell !== null) this.#tell({ … })`.
 */
export type Said =
  | {
      readonly what: 'reg.read';
      readonly device: string;
      readonly offset: number;
      readonly size: number;
      readonly value: bigint;
    }
  | {
      readonly what: 'reg.write';
      readonly device: string;
      readonly offset: number;
      readonly size: number;
      readonly value: bigint;
    }
  /** A guest command was executed. `name` as QEMU prints it (SMMU_CMD_…, context-cache, iotlb, …). */
  | {
      readonly what: 'command';
      readonly device: string;
      readonly name: string;
      readonly words: readonly number[];
      readonly error: number;
    }
  /** A host operation (an ioctl or VFIO verb) with its inputs in short and its result (0 or -errno). */
  | {
      readonly what: 'host';
      readonly verb: string;
      readonly args: Readonly<Record<string, number | bigint | string>>;
      readonly result: number;
    }
  /** A command reached the physical queue. */
  | { readonly what: 'hw.command'; readonly iommu: string; readonly words: readonly number[] }
  | {
      readonly what: 'translate';
      readonly iommu: string;
      readonly rid: number;
      readonly pasid: number;
      readonly iova: bigint;
      readonly access: number;
      readonly out: number;
      readonly shift: number;
      readonly hit: boolean;
    }
  | { readonly what: 'fault'; readonly iommu: string; readonly record: readonly number[] }
  /** A fault of a vVT-d: its record (4 words, F left out), and whether a fault recording register took it. */
  | { readonly what: 'frcd'; readonly device: string; readonly recorded: boolean; readonly words: readonly number[] }
  /** The guest-visible record a device wrote. */
  | { readonly what: 'record'; readonly device: string; readonly address: number; readonly words: readonly number[] }
  | {
      readonly what: 'irq';
      readonly device: string;
      readonly line: string;
      readonly address?: number;
      readonly data?: number;
    }
  | {
      readonly what: 'ats';
      readonly message: string;
      readonly rid: number;
      readonly pasid: number;
      readonly args: Readonly<Record<string, number | bigint>>;
    };

/** Hears one event; called in the middle of what happens, so it must not call back into the machine. */
export type Tell = (said: Said) => void;
