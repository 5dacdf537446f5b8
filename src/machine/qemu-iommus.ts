import type { Root } from '../../bus/topology.ts';
import type { ProfileName } from '../lib/profile/profile.ts';
import type { QemuArgs } from '../lib/qemu-args/qemu-args.ts';
import type { InterruptPort } from '../ports/irq.ts';
import type { Tell } from '../ports/tell.ts';
import type { TraceRecorder } from '../trace/recorder.ts';
import type { Board } from './board.ts';
import type { Vm } from './vm.ts';

/** What the IOMMUs of a command line are put into. */
export interface QemuIommuParts {
  readonly vm: Vm;
  readonly board: Board;
  /** Root buses by QEMU's names. */
  readonly roots: ReadonlyMap<string, Root>;
  readonly irq: InterruptPort;
  readonly args: QemuArgs;
  readonly profile: ProfileName;
  readonly tell: Tell | null;
  /** Hears what the host refuses when a guest renumbers buses. */
  readonly report: (error: unknown) => void;
  /** Hears the DMA behind the first IOMMU, as it goes through it. */
  readonly record?: TraceRecorder;
  /** Which functions wait when an access faults (Arm). */
  readonly canStall?: (name: string) => boolean;
}
