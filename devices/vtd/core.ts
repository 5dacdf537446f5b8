import { ViommuError } from '../../src/core/errors.ts';
import { WorkBudget } from '../../src/lib/access/work-budget.ts';
import type { VtdFeatures } from '../../src/lib/check/vtd-features.ts';
import { MACHINE_LIMITS, type MachineQuotas, machineQuotas } from '../../src/lib/limits/machine-limits.ts';
import type { PasidSpace } from '../../src/lib/pasid/pasid-space.ts';
import { HostConfirm } from '../../src/lib/uapi/host-confirm.ts';
import { HostVerbs } from '../../src/lib/uapi/host-verbs.ts';
import { HostRefusals } from '../../src/lib/uapi/refusals.ts';
import { TTM } from '../../src/spec/vtd/registers.ts';
import type { VtdDeps } from './deps.ts';
import { type VtdIdentity, vtdFeatures, vtdIdentity } from './identity.ts';
import { VtdInterrupts } from './interrupts.ts';
import { type VtdDeviations, vtdDeviations } from './profile.ts';
import { checkVtdProperties, type VtdProperties } from './properties.ts';
import { VtdRegisters } from './registers.ts';

/** What the device was doing when the host refused something that the guest is not told of yet. */
export type VtdRefusedDuring =
  | 'invalidation'
  | 'register invalidation'
  | 'switch of translation'
  | 'first use'
  | 'page request'
  | 'page response'
  | 'freed PASID'
  | 'undoing';

/** What SRTP and TE latched: how the unit finds its tables (VT-d §11.4.4, §11.4.5). */
export interface TableRoot {
  /** TES. */
  on: boolean;
  /** Root table, bytes. */
  base: number;
  /** TTM as latched. */
  mode: number;
}

/** What every part of a vVT-d works with; the device makes it once. */
export interface VtdCore {
  readonly name: string;
  readonly deps: VtdDeps;
  readonly deviations: VtdDeviations;
  /** What the guest is shown, as register words and as fields. */
  readonly identity: VtdIdentity;
  readonly features: VtdFeatures;
  readonly registers: VtdRegisters;
  readonly interrupts: VtdInterrupts;
  /** Where the guest's tables are, as it switched them on. */
  readonly root: TableRoot;
  readonly host: HostVerbs;
  /** Whether the physical unit has done what it was told. */
  readonly confirm: HostConfirm;
  /** What the machine allows. */
  readonly quotas: MachineQuotas;
  /** What one access of the guest may cost. */
  readonly work: WorkBudget;
  /** Where refusals of the host end that no caller handles. */
  readonly refusals: HostRefusals<VtdRefusedDuring>;
}

/**
 * What the properties and the profile make of a vVT-d, before it has any state.
 * @throws ViommuError `E_PROFILE` for properties that do not go together; `EINVAL` for a deviation that is not there, or a
 *   PASID space that leaves the guest none.
 */
export function vtdCore(deps: VtdDeps): VtdCore {
  const properties = belowSplit(checkVtdProperties(deps.properties), deps.pasids);
  const name = deps.name ?? 'vtd';
  const deviations = vtdDeviations(properties.profile, deps.deviations);
  const identity = vtdIdentity(properties, deviations);
  const registers = new VtdRegisters(identity, properties, deviations);
  const work = new WorkBudget(deps.later ?? null, deps.inner);
  return {
    name,
    deps,
    deviations,
    identity,
    features: vtdFeatures(identity, properties),
    registers,
    interrupts: new VtdInterrupts(registers, deps, deviations, name),
    root: { on: false, base: 0, mode: TTM.LEGACY },
    host: new HostVerbs(deps.iommufd, (units) => work.spend(units)),
    confirm: new HostConfirm(deps.upcalls),
    quotas: deps.quotas ?? machineQuotas(MACHINE_LIMITS),
    work,
    refusals: new HostRefusals(),
  };
}

/**
 * A guest's PASIDs lie below the split: those from `min` on are the host's, and what the guest called so could be neither
 * paired nor told from somebody else's. So it is shown no more bits than there are (ECAP.PSS, and what VCMD gives out).
 */
function belowSplit(p: VtdProperties, space: PasidSpace | undefined): VtdProperties {
  if (space === undefined || p.pasidBits === 0) return p;
  const bits = Math.floor(Math.log2(space.min));
  if (bits < 1) {
    const remedy = 'begin it at 2 or above, or give the guest no PASIDs (pasid-bits=0)';
    throw new ViommuError('EINVAL', 'caller', `the PASID space leaves the guest none: ${remedy}`, { min: space.min });
  }
  return bits < p.pasidBits ? { ...p, pasidBits: bits } : p;
}
