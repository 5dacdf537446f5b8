import type { WorkBudget } from '../../src/lib/access/work-budget.ts';
import type { Smmuv3Features } from '../../src/lib/check/smmuv3-features.ts';
import type { MachineQuotas } from '../../src/lib/limits/machine-limits.ts';
import type { HostConfirm } from '../../src/lib/uapi/host-confirm.ts';
import type { HostVerbs } from '../../src/lib/uapi/host-verbs.ts';
import type { HostRefusals } from '../../src/lib/uapi/refusals.ts';
import type { Smmuv3Deps } from './deps.ts';
import type { Smmuv3Identity } from './identity.ts';
import type { Smmuv3Interrupts } from './interrupts.ts';
import type { Smmuv3Deviations } from './profile.ts';
import type { Smmuv3Registers } from './registers.ts';

/** What the device was doing when the host refused something that no command of the guest answers for. */
export type Smmuv3RefusedDuring =
  | 'switch of translation'
  | 'first use'
  | 'load'
  | 'page response'
  | 'stall'
  | 'event queue'
  | 'undoing';

/** What every part of a vSMMUv3 works with; the device makes it once. */
export interface Smmuv3Core {
  readonly name: string;
  readonly deps: Smmuv3Deps;
  readonly deviations: Smmuv3Deviations;
  /** What the guest is shown, as register words and as fields. */
  readonly identity: Smmuv3Identity;
  readonly features: Smmuv3Features;
  readonly registers: Smmuv3Registers;
  readonly interrupts: Smmuv3Interrupts;
  readonly host: HostVerbs;
  /** Whether the physical SMMU has done what it was told. */
  readonly confirm: HostConfirm;
  /** What the machine allows. */
  readonly quotas: MachineQuotas;
  /** What one access of the guest may cost. */
  readonly work: WorkBudget;
  readonly refusals: HostRefusals<Smmuv3RefusedDuring>;
}
