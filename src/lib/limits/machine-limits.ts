import { ViommuError } from '../../core/errors.ts';

/** How much of its host a guest can use at once. Each is an integer of at least 1. */
export interface MachineLimits {
  /**
   * 4 KiB pages of the host's kernel: its tables and queues (131,072: 512 MiB). At the limit the host refuses with ENOMEM,
   * which the guest is told as the architecture has it. VMs that share a host share its pages.
   */
  readonly tablePages: number;
  /**
   * Of those, pages of the tables that repeat the second stages (SMMUv3: stages 2) of the guest (32,768: 128 MiB), for all IOMMUs
   * of the VM together. At the limit the table that has not grown for the longest time gives its own, and comes back when it is missed.
   */
  readonly shadowTables: number;
  /**
   * PASIDs that are set up for the functions of a VT-d unit (4096). At the limit the one set up first is taken down, and comes
   * back with its next use. A PASID that the host names otherwise, or without upcalls, stays: then the new one is refused.
   */
  readonly pasids: number;
  /**
   * Pieces of the second stages that the guest owns, as the host has them mapped (65,536). At the limit those of the stage that
   * grew longest ago go, and come back when they are missed. Without upcalls nothing is missed: then a table is mapped as far as there is room.
   */
  readonly shadowPieces: number;
  /**
   * Submissions of device-TLB invalidations whose answers are missing (1024; an SMMUv3 submits up to 256 at once). At the limit the command queue stops, and goes on with the
   * answers.
   */
  readonly invalidations: number;
  /** Page requests that the guest has not answered (4096). At the limit the oldest is answered Invalid Request. */
  readonly pageRequests: number;
  /**
   * Stalled transactions of an SMMUv3, with a STAG or waiting for one (4096). At the limit a transaction is terminated, with
   * its event.
   */
  readonly stalls: number;
  /**
   * Interrupts that wait until the emulator is outside of an access (65,536). At the limit wired lines keep their last state and
   * one pulse each; a further message is lost.
   */
  readonly interrupts: number;
}

/** What holds when nothing is asked for. */
export const MACHINE_LIMITS: MachineLimits = {
  tablePages: 131_072,
  shadowTables: 32_768,
  pasids: 4096,
  shadowPieces: 65_536,
  invalidations: 1024,
  pageRequests: 4096,
  stalls: 4096,
  interrupts: 65_536,
};

/** How much of something is in use. */
export interface QuotaUse {
  /** In use now. */
  readonly used: number;
  /** Most that may be. */
  readonly limit: number;
  /** How often the limit was met: something old was dropped, or something new had to wait or was refused. */
  readonly met: number;
}

/** What a machine uses of each of its limits now. */
export type MachineUsage = { readonly [K in keyof MachineLimits]: QuotaUse };

/** Counts what is in use against a limit. */
export class Quota implements QuotaUse {
  /** In use now. */
  used = 0;
  /** How often there was no room. */
  met = 0;
  /** Most that may be. */
  readonly limit: number;

  constructor(limit: number) {
    this.limit = limit;
  }

  /** Whether one more has room; counts when not. */
  room(): boolean {
    if (this.used < this.limit) return true;
    this.met++;
    return false;
  }
}

/** The quotas of one machine, that its units share. */
export type MachineQuotas = { readonly [K in Exclude<keyof MachineLimits, 'tablePages' | 'shadowTables'>]: Quota };

/**
 * @param wanted those that differ from the defaults.
 * @throws ViommuError `EINVAL` names a limit that is not known, or no integer of at least 1.
 */
export function machineLimits(wanted: Partial<MachineLimits> = {}): MachineLimits {
  for (const [name, value] of Object.entries(wanted)) {
    if (!(name in MACHINE_LIMITS)) {
      const known = Object.keys(MACHINE_LIMITS).join(', ');
      throw new ViommuError('EINVAL', 'caller', `there is no limit '${name}': ${known}`);
    }
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new ViommuError('EINVAL', 'caller', `limit '${name}' is an integer of at least 1`, {
        found: String(value),
      });
    }
  }
  return { ...MACHINE_LIMITS, ...wanted };
}

/** Fresh counts against limits. */
export function machineQuotas(limits: MachineLimits): MachineQuotas {
  return {
    pasids: new Quota(limits.pasids),
    shadowPieces: new Quota(limits.shadowPieces),
    invalidations: new Quota(limits.invalidations),
    pageRequests: new Quota(limits.pageRequests),
    stalls: new Quota(limits.stalls),
    interrupts: new Quota(limits.interrupts),
  };
}
