import { ViommuError } from '../core/errors.ts';
import type { FailureOptions } from '../lib/inject/failure-options.ts';
import type { MachineLimits } from '../lib/limits/machine-limits.ts';
import type { InterruptPort } from '../ports/irq.ts';
import type { MmioDevice } from '../ports/mmio.ts';
import type { Tell } from '../ports/tell.ts';
import type { TraceRecorder } from '../trace/recorder.ts';
import type { InterruptSink } from './interrupt-queue.ts';
import type { IommuUnit } from './unit.ts';
import type { Vm, VmRam } from './vm.ts';

const PAGE = 4096;

/** What an emulator gives. Everything else of a machine comes from here. */
export interface Emulator {
  /** Guest RAM: where it is and the emulator's own storage. */
  readonly ram: readonly VmRam[];
  /**
   * Claims [base, base + window.bytes) of guest-physical space: from now on accesses there call `window`. A write of 8
   * bytes may come whole or as two of 4, low first; the same for reads.
   */
  claim(base: number, window: MmioDevice): void;
  /** The interrupt controller. Called outside of accesses only. */
  readonly interrupts: InterruptSink;
  /** Runs an action soon, outside of any access. Default: a microtask. */
  defer?(action: () => void): void;
  /** Hears what went wrong inside a handler (a defect here or in a function of the caller's). Default: thrown later. */
  report?(error: unknown): void;
}

/** Where the machine's parts sit in guest-physical space (bytes), and how they are wired. */
export interface MachinePlan {
  /** Registers of the IOMMU. */
  readonly iommu: number;
  /** The emulator's line numbers of the IOMMU's wired interrupts (SMMUv3: event, PRI, sync, global error). */
  readonly lines?: readonly number[];
  /** INTA … INTD of the root complex. */
  readonly intx?: readonly number[];
  /** Configuration space as memory: 1 MiB for each bus from 0 on. */
  readonly ecam?: { readonly base: number; readonly buses: number };
  /** Memory for BARs: what no function decodes there reads as ones. An emulator that follows BARs itself leaves it out. */
  readonly pci?: { readonly base: number; readonly bytes: number };
  /** The page messages are written to (Arm: an ITS's or GICv2m's doorbell; x86: 0xfee00000 + 1 MiB). */
  readonly doorbell: { readonly base: number; readonly bytes: number };
  /** Hears everything that happens. */
  readonly tell?: Tell | null;
  /** How much of its host the guest can use, where that differs from the defaults. */
  readonly limits?: Partial<MachineLimits>;
  /** Lets internal steps of the host and its hardware fail, to try what a driver does then (`Vm.failures`). */
  readonly failures?: FailureOptions;
  /** Makes a recording of everything that passes between guest, IOMMU and functions. */
  readonly record?: TraceRecorder | null;
  /** Judges the guest's driver of this kind of IOMMU: `PluggedMachine.findings` says what it did wrong. */
  readonly sanitize?: 'smmuv3' | 'vtd';
  /** Register reads are the guest's own (default). False: the emulator does not trap loads, and looks at registers itself. */
  readonly recordReads?: boolean;
}

/**
 * Makes the IOMMU of a machine.
 * @param vm the VM it serves. @param irq where its interrupts go. @param tell the plan's, or null.
 */
export type MakeUnit = (vm: Vm, irq: InterruptPort, tell: Tell | null) => IommuUnit;

/**
 * @throws ViommuError `EINVAL`: the emulator has no RAM, or a place is not aligned; `EBUSY` names two parts of the plan that overlap.
 */
export function checkPlan(ram: readonly VmRam[], plan: MachinePlan): void {
  if (ram.length === 0) {
    throw new ViommuError('EINVAL', 'caller', 'the emulator has no guest RAM: give `ram` at least one region');
  }
  const parts: [name: string, base: number, bytes: number][] = ram.map((r) => ['guest RAM', r.base, r.bytes]);
  parts.push(['the IOMMU', plan.iommu, 4096], ['the doorbell', plan.doorbell.base, plan.doorbell.bytes]);
  if (plan.ecam) parts.push(['ECAM', plan.ecam.base, plan.ecam.buses * 0x10_0000]);
  if (plan.pci) parts.push(['memory for BARs', plan.pci.base, plan.pci.bytes]);
  parts.sort((a, b) => a[1] - b[1]);
  parts.forEach(([name, base], i) => {
    const below = parts[i - 1];
    if (below === undefined || below[1] + below[2] <= base) return;
    throw new ViommuError('EBUSY', 'caller', `${name} overlaps ${below[0]}: move one of them`, { base });
  });
  if (plan.pci !== undefined && (plan.pci.base % PAGE !== 0 || plan.pci.bytes % PAGE !== 0)) {
    throw new ViommuError('EINVAL', 'caller', 'memory for BARs consists of pages of 4 KiB', plan.pci);
  }
}
