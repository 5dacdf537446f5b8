import { ViommuError } from '../../src/core/errors.ts';
import { PROFILES, type ProfileName } from '../../src/lib/profile/profile.ts';
import { checkProperties, type PropertyTable } from '../../src/lib/profile/property-rules.ts';
import {
  inDevice,
  notAccepted,
  parseInteger,
  parseOnOff,
  parseOnOffAuto,
  type QemuArgs,
  type QemuOption,
} from '../../src/lib/qemu-args/qemu-args.ts';

/** A vVT-d as its owner ordered it, in QEMU's words (`-device intel-iommu,…`). */
export interface VtdProperties {
  /** Whose answers it gives where QEMU and the architecture differ. */
  readonly profile: ProfileName;
  /** Input address width: 39, 48, or (arch) 57. Also the host address width the reserved-bit checks use, at most 52. */
  readonly awBits: number;
  /** Scalable mode (ECAP.SMTS). */
  readonly scalableMode: boolean;
  /** First-stage translation in scalable mode (ECAP.FSTS). */
  readonly fsts: boolean;
  /** First-stage pages of 1 GiB (CAP.FS1GP). */
  readonly fs1gp: boolean;
  /** PASID width; 0: none. */
  readonly pasidBits: number;
  /** Shared virtual memory: page requests and what goes with them (ECAP.PRS). */
  readonly svm: boolean;
  /** Device TLBs (ECAP.DT). */
  readonly deviceIotlb: boolean;
  /** Interrupt remapping (ECAP.IR). */
  readonly intremap: boolean;
  /** Interrupts with 32-bit destinations (ECAP.EIM). */
  readonly eim: boolean;
  /** Caching mode (CAP.CM): the guest also invalidates what becomes present. */
  readonly cachingMode: boolean;
  /** Snoop control (ECAP.SC). */
  readonly snoopControl: boolean;
  /** DMA is translated; else the unit remaps interrupts only. */
  readonly dmaTranslation: boolean;
  /** QEMU's `stale-tm`: TM bits of second-stage leaves do not count as reserved. */
  readonly staleTm: boolean;
  /** Not QEMU's: off, the unit has no invalidation queue (ECAP.QI), and drivers invalidate through registers. */
  readonly queuedInvalidation: boolean;
  /**
   * Not QEMU's: ECAP.C and, in scalable mode, SMPWCS: walks snoop the processor's caches, as they do in every machine whose
   * guest RAM has one copy. Drivers then write their tables without flushing each entry.
   */
  readonly pageWalkCoherency: boolean;
  /** Not QEMU's: posted interrupts (CAP.PI). */
  readonly postedInterrupts: boolean;
  /** Not QEMU's: CAP.ESIRTPS says that SIRTP empties the interrupt entry cache, as it does in any case. */
  readonly esirtps: boolean;
  /** Not QEMU's: nanoseconds a virtual command takes; VCRSP.IP is set meanwhile. 0: it is done when its write returns. */
  readonly vcmdDelay: number;
}

/** QEMU's defaults of `-device intel-iommu`; `auto` of intremap is on and of eim off without an in-kernel irqchip. */
export function vtdDefaults(profile: ProfileName = 'qemu-11.1'): VtdProperties {
  return {
    profile,
    awBits: 48,
    scalableMode: false,
    fsts: false,
    fs1gp: true,
    pasidBits: 0,
    svm: false,
    deviceIotlb: false,
    intremap: true,
    eim: false,
    cachingMode: false,
    snoopControl: false,
    dmaTranslation: true,
    staleTm: false,
    queuedInvalidation: true,
    pageWalkCoherency: false,
    postedInterrupts: false,
    esirtps: false,
    vcmdDelay: 0,
  };
}

type Mutable = { -readonly [K in keyof VtdProperties]: VtdProperties[K] };

const SWITCHES: Readonly<Record<string, keyof VtdProperties>> = {
  'scalable-mode': 'scalableMode',
  'x-scalable-mode': 'scalableMode',
  fsts: 'fsts',
  'x-flts': 'fsts',
  flts: 'fsts',
  fs1gp: 'fs1gp',
  svm: 'svm',
  'device-iotlb': 'deviceIotlb',
  intremap: 'intremap',
  eim: 'eim',
  'caching-mode': 'cachingMode',
  'snoop-control': 'snoopControl',
  'dma-translation': 'dmaTranslation',
  'stale-tm': 'staleTm',
  'x-queued-invalidation': 'queuedInvalidation',
  'x-page-walk-coherency': 'pageWalkCoherency',
  'x-posted-interrupts': 'postedInterrupts',
  'x-esirtps': 'esirtps',
};

/** Placement and versioning; they change nothing in the device. */
const IGNORED = new Set(['id', 'version', 'bus', 'addr']);

function set(p: Mutable, name: string, value: string): void {
  const key = SWITCHES[name];
  if (name === 'x-profile') {
    const found = PROFILES.find((known) => known === value);
    if (found === undefined)
      throw notAccepted(name, value, `may be one of two: x-profile is arch or qemu-11.1, not '${value}'`);
    p.profile = found;
  } else if (key !== undefined) {
    const parsed = key === 'intremap' || key === 'eim' ? parseOnOffAuto(name, value) : parseOnOff(name, value);
    if (parsed !== null) (p as Record<string, unknown>)[key] = parsed;
  } else if (name === 'aw-bits') {
    p.awBits = parseInteger(name, value, 0, 255, 'uint8_t');
  } else if (name === 'pasid-bits') {
    p.pasidBits = parseInteger(name, value, 0, 255, 'uint8_t');
  } else if (name === 'x-vcmd-delay') {
    p.vcmdDelay = parseInteger(name, value, 0, 0xffff_ffff, 'uint32_t');
  } else if (!IGNORED.has(name)) {
    refuse(`Property 'intel-iommu.${name}' not found`);
  }
}

function pasidTooWide(bits: number): string {
  const most = 'Maximum supported PASID size is 20: pasid-bits';
  return `PASID width ${bits} exceeds Max PASID Width 20 allowed in PCI spec. ${most}`;
}

function refuse(what: string, value?: number): never {
  throw new ViommuError('E_PROFILE', 'caller', what, value === undefined ? {} : { value: String(value) });
}

/** What each property may be by itself; widths are for `checkVtdProperties` to judge, in QEMU's words. */
const TABLE: PropertyTable<VtdProperties> = {
  device: 'intel-iommu',
  defaults: 'vtdDefaults()',
  rules: {
    profile: { values: PROFILES },
    awBits: { min: 0, max: 255 },
    scalableMode: 'switch',
    fsts: 'switch',
    fs1gp: 'switch',
    pasidBits: { min: 0, max: 255 },
    svm: 'switch',
    deviceIotlb: 'switch',
    intremap: 'switch',
    eim: 'switch',
    cachingMode: 'switch',
    snoopControl: 'switch',
    dmaTranslation: 'switch',
    staleTm: 'switch',
    queuedInvalidation: 'switch',
    pageWalkCoherency: 'switch',
    postedInterrupts: 'switch',
    esirtps: 'switch',
    vcmdDelay: { min: 0, max: 0xffff_ffff },
  },
  spelled: {
    profile: 'x-profile',
    awBits: 'aw-bits',
    scalableMode: 'scalable-mode',
    pasidBits: 'pasid-bits',
    deviceIotlb: 'device-iotlb',
    cachingMode: 'caching-mode',
    snoopControl: 'snoop-control',
    dmaTranslation: 'dma-translation',
    staleTm: 'stale-tm',
    queuedInvalidation: 'x-queued-invalidation',
    pageWalkCoherency: 'x-page-walk-coherency',
    postedInterrupts: 'x-posted-interrupts',
    esirtps: 'x-esirtps',
    vcmdDelay: 'x-vcmd-delay',
  },
};

/**
 * Each property by itself, then the combinations QEMU refuses, in its order and words.
 * @throws ViommuError `E_PROFILE` (blame `caller`); it names property, value, what is possible and what to do.
 */
export function checkVtdProperties(p: VtdProperties): VtdProperties {
  checkProperties(TABLE, p);
  const arch = p.profile === 'arch';
  if (p.eim && !p.intremap) refuse('eim=on cannot be selected without intremap=on');
  for (const [on, name] of [
    [p.postedInterrupts, 'x-posted-interrupts'],
    [p.esirtps, 'x-esirtps'],
  ] as const) {
    if (on && !(arch && p.intremap)) refuse(`${name}=on cannot be selected without intremap=on and x-profile=arch`);
  }
  if (p.fsts && !p.scalableMode) refuse('fsts is only available in scalable mode');
  const five = arch && p.scalableMode && p.awBits === 57;
  if (!five) {
    if (p.fsts && p.awBits !== 48) refuse('Scalable mode(fsts=on): supported value for aw-bits is: 48', p.awBits);
    if (p.awBits !== 39 && p.awBits !== 48) {
      const mode = p.scalableMode ? 'Scalable mode(fsts=off)' : 'Legacy mode';
      refuse(`${mode}: supported values for aw-bits are: 39, 48`, p.awBits);
    }
  }
  if (!p.queuedInvalidation && (p.intremap || p.scalableMode || p.deviceIotlb)) {
    refuse('x-queued-invalidation=off leaves nothing for interrupt remapping, scalable mode and device IOTLBs');
  }
  if (p.pasidBits > 0 && !p.scalableMode) refuse('Need to set scalable mode for PASID');
  if (p.pasidBits > 20) refuse(pasidTooWide(p.pasidBits), p.pasidBits);
  if (p.svm) {
    if (!p.deviceIotlb) refuse('Need to set device IOTLB for svm');
    if (!p.fsts) refuse('Need to set fsts for svm');
    if (!p.dmaTranslation) refuse('Need to set dma-translation for svm');
    if (p.pasidBits === 0) refuse('Need to set PASID for svm');
  }
  return p;
}

/** Properties from one parsed `-device intel-iommu,…`. @throws ViommuError `E_PROFILE`. */
export function vtdPropertiesOf(option: QemuOption, profile: ProfileName = 'qemu-11.1'): VtdProperties {
  return inDevice(option, () => {
    const p: Mutable = vtdDefaults(profile);
    for (const [name, value] of option.props) set(p, name, value);
    return checkVtdProperties(p);
  });
}

/**
 * The vVT-d a QEMU command line asks for (`-device intel-iommu`, with `-global intel-iommu.…`), or null when it has none.
 * @throws ViommuError `E_PROFILE` for a combination QEMU refuses.
 */
export function vtdProperties(args: QemuArgs, profile: ProfileName = 'qemu-11.1'): VtdProperties | null {
  const option = args.devices.find((d) => d.kind === 'intel-iommu');
  if (option === undefined) return null;
  const p: Mutable = vtdDefaults(profile);
  for (const g of args.globals) if (g.driver === 'intel-iommu') set(p, g.prop, g.value);
  return inDevice(option, () => {
    for (const [name, value] of option.props) set(p, name, value);
    return checkVtdProperties(p);
  });
}
