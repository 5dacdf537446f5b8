import { deviceHelp, type PropertyHelp } from '../../src/lib/qemu-args/device-help.ts';

const HOST = 'supported by the host platform.';
/** QEMU 11.1.3's, in its words; then ours. */
// biome-ignore format: table
const PROPERTIES: readonly PropertyHelp[] = [
  { name: 'accel', type: 'bool', value: 'off', about: 'Enable SMMUv3 accelerator support. Allows host SMMUv3 to be configured in nested mode for vfio-pci dev assignment. ' +
    'Please ensure the host SMMUv3 supports nested translation before enabling.' },
  { name: 'ats', type: 'OnOffAuto', value: 'auto', about: 'Enable/disable ATS support (for accel=on). Valid values are on, off, and auto. Defaults to auto. ' +
    'Please ensure host platform supports ATS before setting it to on.' },
  { name: 'bus_num', type: 'uint8', value: '0', about: '' },
  { name: 'cmdqv', type: 'OnOffAuto', value: 'auto', about: 'Enable/disable CMDQV support (for accel=on). Valid values are on, off, and auto. Defaults to auto.' },
  { name: 'identifier', type: 'uint8', value: '0', about: '' },
  { name: 'memory', type: 'link<memory-region>' },
  { name: 'msi-gpa', type: 'uint64', value: '0', about: '' },
  { name: 'oas', type: 'OasMode', value: 'auto', about: 'Set Output Address Size in bits (for accel=on). Valid values are 44, 48, and auto. Defaults to auto.' +
    `Please ensure the value does not exceed the maximum Output Address Size ${HOST}` },
  { name: 'primary-bus', type: 'link<PCI>' },
  { name: 'ril', type: 'OnOffAuto', value: 'auto', about: 'Enable/disable range invalidation support (for accel=on). Valid values are on, off, and auto. Defaults to auto. ' +
    "Any attempt to turn it 'on' while the host does not support it would fail." },
  { name: 'secure-memory', type: 'link<memory-region>' },
  { name: 'smmu_per_bus', type: 'bool', value: 'off', about: 'on/off' },
  { name: 'ssidsize', type: 'SsidSizeMode', value: 'auto', about: 'Set number of bits used to represent SubstreamIDs (SSIDs). Valid values are 0-20 and auto. Defaults to auto. ' +
    'A value of N allows SSIDs in the range [0 .. 2^N - 1]. A value of 0 disables SubstreamID support. A value greater than 0 is required to enable PASID support.' +
    `Please ensure the value does not exceed the maximum SubstreamID size ${HOST}` },
  { name: 'stage', type: 'str' },
  { name: 'httu', type: 'uint8', value: '0', about: 'viommu: IDR0.HTTU. 0: none, 1: access flags, 2: access flags and dirty state by hardware.' },
  { name: 'msi', type: 'bool', value: 'on with x-profile=arch, else off', about: 'viommu: interrupts as messages (IDR0.MSI).' },
  { name: 'pps', type: 'bool', value: 'off', about: 'viommu: automatic answers to page requests repeat their PASID (IDR3.PPS). Needs pri=on.' },
  { name: 'pri', type: 'bool', value: 'off', about: 'viommu: page requests (IDR0.PRI). Needs ats=on.' },
  { name: 'stall', type: 'bool', value: 'off', about: 'viommu: faults may stall (IDR0.STALL_MODEL).' },
  { name: 'x-profile', type: 'str', value: 'qemu-11.1', about: 'viommu: qemu-11.1 answers as QEMU 11.1, arch as the architecture says. With arch what is for accel=on needs no accel, and oas may be 32, 36, 40, 42, 44 or 48.' },
];

/** Names of the properties that the help of `-device arm-smmuv3` has. */
export const SMMUV3_PROPERTY_NAMES: readonly string[] = PROPERTIES.map((p) => p.name);

/** What `-device arm-smmuv3,help` prints. */
export function smmuv3Help(): string {
  return deviceHelp('arm-smmuv3', PROPERTIES);
}
