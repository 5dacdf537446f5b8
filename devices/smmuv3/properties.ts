import { ViommuError } from '../../src/core/errors.ts';
import { PROFILES, type ProfileName } from '../../src/lib/profile/profile.ts';
import { checkProperties, type PropertyTable, refuseProperty } from '../../src/lib/profile/property-rules.ts';
import {
  inDevice,
  notAccepted,
  parseInteger,
  parseOnOff,
  parseOnOffAuto,
  type QemuArgs,
  type QemuOption,
} from '../../src/lib/qemu-args/qemu-args.ts';

/** A vSMMUv3 as its owner ordered it, in QEMU's words (`-device arm-smmuv3,…`); those from `pri` on are ours. */
export interface Smmuv3Properties {
  /** Whose answers it gives where QEMU and the architecture differ. */
  readonly profile: ProfileName;
  /** QEMU's `id=`. */
  readonly id: string;
  /** Root bus whose devices this instance translates. */
  readonly primaryBus: string;
  /** Which stages the guest is shown: stage 1, stage 2 or both. */
  readonly stage: '1' | '2' | 'nested';
  /** The host's SMMU walks the guest's stage 1 (QEMU's `accel`): the guest is shown no more than that has. */
  readonly accel: boolean;
  /** Range invalidation (IDR3.RIL). */
  readonly ril: boolean;
  /** ATS (IDR0.ATS). */
  readonly ats: boolean;
  /** Output address size in bits. */
  readonly oas: 32 | 36 | 40 | 42 | 44 | 48;
  /** log2 of SubstreamIDs. */
  readonly ssidsize: number;
  /** Guest-physical address of the MSI doorbell; 0 leaves it to the machine. */
  readonly msiGpa: number;
  /** Page requests (IDR0.PRI), with ATS. */
  readonly pri: boolean;
  /** Automatic answers to page requests repeat their PASID (IDR3.PPS), whatever STE.PPAR says. */
  readonly pps: boolean;
  /** The stall model (IDR0.STALL_MODEL): faults may stall. */
  readonly stall: boolean;
  /** Interrupts as messages (IDR0.MSI). */
  readonly msi: boolean;
  /** IDR0.HTTU: 0 none, 1 access flags, 2 access flags and dirty state by hardware. */
  readonly httu: 0 | 1 | 2;
}

/** QEMU's defaults of `-device arm-smmuv3`. */
export function smmuv3Defaults(profile: ProfileName = 'qemu-11.1'): Smmuv3Properties {
  return {
    profile,
    id: '',
    primaryBus: 'pcie.0',
    stage: '1',
    accel: false,
    ril: true,
    ats: false,
    oas: 44,
    ssidsize: 0,
    msiGpa: 0,
    pri: false,
    pps: false,
    stall: false,
    msi: profile === 'arch',
    httu: 0,
  };
}

const STAGES = ['1', '2', 'nested'] as const;
const OAS = [32, 36, 40, 42, 44, 48] as const;

/** What each property may be, and what QEMU calls it. */
const TABLE: PropertyTable<Smmuv3Properties> = {
  device: 'arm-smmuv3',
  defaults: 'smmuv3Defaults()',
  rules: {
    profile: { values: PROFILES },
    id: 'text',
    primaryBus: 'text',
    stage: { values: STAGES },
    accel: 'switch',
    ril: 'switch',
    ats: 'switch',
    oas: { values: OAS },
    ssidsize: { min: 0, max: 20 },
    msiGpa: { min: 0, max: 2 ** 52 - 1 },
    pri: 'switch',
    pps: 'switch',
    stall: 'switch',
    msi: 'switch',
    httu: { min: 0, max: 2 },
  },
  spelled: { profile: 'x-profile', primaryBus: 'primary-bus', msiGpa: 'msi-gpa' },
};

/**
 * Each property by itself, then what does not go together; QEMU's own conditions under `qemu-11.1`. ATS without `accel` is the
 * one thing taken that QEMU refuses: our functions have it.
 * @throws ViommuError `E_PROFILE` (blame `caller`); it names property, value, what is possible and what to do.
 */
export function checkSmmuv3Properties(p: Smmuv3Properties): Smmuv3Properties {
  checkProperties(TABLE, p);
  const refused = (field: keyof Smmuv3Properties, want: string): never => refuseProperty(TABLE, field, p[field], want);
  if (p.accel && p.stage !== '1') refused('stage', 'must be 1 with accel=on');
  if (p.ssidsize > 0 && p.stage === '2') refused('ssidsize', 'must be 0 with stage=2: SubstreamIDs choose a stage 1');
  if (p.pri && !p.ats) refused('pri', 'needs ats=on: page requests are a part of ATS');
  if (p.pps && !p.pri) refused('pps', 'needs pri=on: it says how page requests are answered');
  if (p.profile === 'arch') return p;
  if (p.accel) {
    if (p.oas !== 44 && p.oas !== 48) refused('oas', 'must be 44 or 48 with accel=on');
    return p;
  }
  const or = 'only be set with accel=on, or in the profile arch';
  if (p.ssidsize > 0) refused('ssidsize', `must be 0: it can ${or}`);
  if (p.oas !== 44) refused('oas', `must be 44: it can ${or}`);
  if (!p.ril) refused('ril', `must be true: it can ${or}`);
  return p;
}
/** Accepted without effect: placement, and what only QEMU's own command-queue virtualisation uses. */
const IGNORED = new Set(['bus', 'addr', 'bus_num', 'identifier', 'smmu_per_bus', 'memory', 'secure-memory', 'cmdqv']);

function fromOption(option: QemuOption, profile: ProfileName): Smmuv3Properties {
  const own = profileOf(option, profile);
  const p: { -readonly [K in keyof Smmuv3Properties]: Smmuv3Properties[K] } = smmuv3Defaults(own);
  for (const [name, value] of option.props) {
    const auto = value === 'auto';
    switch (name) {
      case 'x-profile':
        break;
      case 'id':
        p.id = value;
        break;
      case 'primary-bus':
        p.primaryBus = value;
        break;
      case 'stage':
        p.stage = STAGES.find((s) => s === value) ?? refuse(name, value, '1, 2 or nested');
        break;
      case 'oas':
        if (!auto) p.oas = OAS.find((n) => String(n) === value) ?? refuse(name, value, '32, 36, 40, 42, 44 or 48');
        break;
      case 'ssidsize':
        if (!auto) p.ssidsize = ssidSize(name, value);
        break;
      case 'httu':
        p.httu = parseInteger(name, value, 0, 2, 'uint8_t') as 0 | 1 | 2;
        break;
      case 'msi-gpa':
        p.msiGpa = parseInteger(name, value, 0, 2 ** 52 - 1, 'uint64_t');
        break;
      case 'ril':
      case 'ats':
        p[name] = parseOnOffAuto(name, value) ?? p[name];
        break;
      case 'accel':
      case 'pri':
      case 'pps':
      case 'stall':
      case 'msi':
        p[name] = parseOnOff(name, value);
        break;
      default:
        if (!IGNORED.has(name)) {
          const what = `Property 'arm-smmuv3.${name}' not found: arm-smmuv3 has no property '${name}'`;
          throw new ViommuError('E_PROFILE', 'caller', what, { value });
        }
    }
  }
  return checkSmmuv3Properties(p);
}

/** The profile that `x-profile` chooses for one vSMMUv3. */
function profileOf({ props }: Pick<QemuOption, 'props'>, otherwise: ProfileName): ProfileName {
  const given = props.get('x-profile');
  if (given === undefined) return otherwise;
  return PROFILES.find((name) => name === given) ?? refuse('x-profile', given, PROFILES.join(' or '));
}

function refuse(name: string, value: string, want: string): never {
  throw notAccepted(name, value, `must be ${want}`);
}

/** QEMU has a name for each number. */
function ssidSize(name: string, value: string): number {
  const bits = /^\d{1,2}$/.test(value) ? Number(value) : -1;
  if (bits < 0 || bits > 20) throw notAccepted(name, value, 'is a number from 0 to 20, or auto');
  return bits;
}

/**
 * The vSMMUv3s of a QEMU command line, in order: `-M virt,iommu=smmuv3` (always both stages, whatever -global says) and
 * each `-device arm-smmuv3,…`.
 * @throws ViommuError `E_PROFILE` for a property or value QEMU would refuse.
 */
export function smmuv3Properties(args: QemuArgs, profile: ProfileName = 'qemu-11.1'): Smmuv3Properties[] {
  const found: Smmuv3Properties[] = [];
  const iommu = args.machine.props.get('iommu') ?? 'none';
  if (iommu !== 'smmuv3' && iommu !== 'none') refuse('iommu', iommu, 'smmuv3 or none');
  const wide = profileOf(args.machine, profile);
  if (iommu === 'smmuv3') found.push({ ...smmuv3Defaults(wide), stage: 'nested' });
  for (const device of args.devices)
    if (device.kind === 'arm-smmuv3') found.push(inDevice(device, () => fromOption(device, profile)));
  return found;
}
