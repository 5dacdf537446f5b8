import { deviceHelp, type PropertyHelp } from '../../src/lib/qemu-args/device-help.ts';

/** QEMU 11.1.3's, in its words; then ours. */
// biome-ignore format: table
const PROPERTIES: readonly PropertyHelp[] = [
  { name: 'aw-bits', type: 'uint8', value: '48', about: '' },
  { name: 'caching-mode', type: 'bool', value: 'off', about: 'on/off' },
  { name: 'device-iotlb', type: 'bool', value: 'off', about: 'on/off' },
  { name: 'dma-translation', type: 'bool', value: 'on', about: 'on/off' },
  { name: 'eim', type: 'OnOffAuto', value: 'auto', about: 'on/off/auto' },
  { name: 'fs1gp', type: 'bool', value: 'on', about: 'on/off' },
  { name: 'fsts', type: 'bool', value: 'off', about: 'on/off' },
  { name: 'intremap', type: 'OnOffAuto', value: 'auto', about: 'on/off/auto' },
  { name: 'pasid-bits', type: 'uint8', value: '0', about: '' },
  { name: 'scalable-mode', type: 'bool', value: 'off', about: 'on/off' },
  { name: 'snoop-control', type: 'bool', value: 'off', about: 'on/off' },
  { name: 'stale-tm', type: 'bool', value: 'off', about: 'on/off' },
  { name: 'svm', type: 'bool', value: 'off', about: 'on/off' },
  { name: 'version', type: 'uint32', value: '0', about: '' },
  { name: 'x-esirtps', type: 'bool', value: 'off', about: 'viommu: CAP.ESIRTPS. Needs x-profile=arch.' },
  { name: 'x-posted-interrupts', type: 'bool', value: 'off', about: 'viommu: posted interrupts (CAP.PI). Needs x-profile=arch.' },
  { name: 'x-vcmd-delay', type: 'uint32', value: '0', about: 'viommu: nanoseconds a virtual command takes, during which VCRSP.IP is set.' },
  { name: 'x-page-walk-coherency', type: 'bool', value: 'off', about: 'viommu: walks snoop the processor\'s caches (ECAP.C, and SMPWCS in scalable mode).' },
  { name: 'x-profile', type: 'str', value: 'qemu-11.1', about: 'viommu: qemu-11.1 answers as QEMU 11.1, arch as the architecture says. With arch aw-bits may be 57 in scalable mode.' },
  { name: 'x-queued-invalidation', type: 'bool', value: 'on', about: 'viommu: off, the unit has no invalidation queue (ECAP.QI).' },
];

/** Names of the properties that the help of `-device intel-iommu` has. */
export const VTD_PROPERTY_NAMES: readonly string[] = PROPERTIES.map((p) => p.name);

/** What `-device intel-iommu,help` prints. */
export function vtdHelp(): string {
  return deviceHelp('intel-iommu', PROPERTIES);
}
