import { expect, test } from 'vitest';
import { type VtdIdentity, vtdFeatures, vtdIdentity } from '../../../devices/vtd/identity.ts';
import { VTD_DEVIATIONS, type VtdDeviationName, vtdDeviations } from '../../../devices/vtd/profile.ts';
import { checkVtdProperties, type VtdProperties, vtdDefaults, vtdProperties } from '../../../devices/vtd/properties.ts';
import { toBigint } from '../../../src/core/bits.ts';
import { parseQemuArgs } from '../../../src/lib/qemu-args/qemu-args.ts';
import { Guest } from './guest.ts';

function identityOf(p: VtdProperties): VtdIdentity {
  return vtdIdentity(checkVtdProperties(p), vtdDeviations(p.profile));
}
const featuresOf = (p: VtdProperties) => vtdFeatures(identityOf(p), p);

function caps(text: string): string[] {
  const p = vtdProperties(
    parseQemuArgs(`qemu-system-x86_64 -M q35 -device intel-iommu${text === '' ? '' : `,${text}`}`),
  );
  const s = identityOf(p!);
  return [toBigint(s.capLo, s.capHi), toBigint(s.ecapLo, s.ecapHi)].map((v) => `0x${v.toString(16)}`);
}

test.each([
  ['', '0x80d2008c222f0606', '0xf00f4a'],
  ['aw-bits=39', '0x80d2008c22260206', '0xf00f4a'],
  ['caching-mode=on', '0x80d2008c222f0686', '0xf00f4a'],
  ['device-iotlb=on', '0x80d2008c222f0606', '0xf00f4e'],
  ['intremap=off', '0x80d2008c222f0606', '0xf42'],
  ['intremap=on,eim=on', '0x80d2008c222f0606', '0xf00f5a'],
  ['snoop-control=on', '0x80d2008c222f0606', '0xf00fca'],
  ['dma-translation=off', '0x80d2008c222f0006', '0xf00f4a'],
  ['scalable-mode=on', '0x80d2008c222f0606', '0x480080f00f4a'],
  ['scalable-mode=on,fsts=on', '0x81d2008c222f0606', '0x880000f00f4a'],
  ['scalable-mode=on,fsts=on,fs1gp=off', '0x80d2008c222f0606', '0x880000f00f4a'],
  ['scalable-mode=on,fsts=on,pasid-bits=20', '0x81d2008c222f0606', '0x899800f00f4a'],
  ['scalable-mode=on,pasid-bits=8', '0x80d2008c222f0606', '0x493880f00f4a'],
  ['scalable-mode=on,fsts=on,pasid-bits=8,svm=on,device-iotlb=on', '0x81d2008c222f0606', '0x8d3a20f00f4e'],
])('a guest of intel-iommu,%s reads the CAP and ECAP QEMU 11.1.3 shows', (text, cap, ecap) => {
  expect(caps(text)).toEqual([cap, ecap]);
});

test.each([
  ['aw-bits=57', 'Legacy mode: supported values for aw-bits are: 39, 48'],
  ['scalable-mode=on,fsts=on,aw-bits=57', 'Scalable mode(fsts=on): supported value for aw-bits is: 48'],
  ['scalable-mode=on,fsts=on,aw-bits=39', 'Scalable mode(fsts=on): supported value for aw-bits is: 48'],
  ['fsts=on', 'fsts is only available in scalable mode'],
  ['svm=on', 'Need to set device IOTLB for svm'],
  ['svm=on,device-iotlb=on', 'Need to set fsts for svm'],
  ['scalable-mode=on,fsts=on,svm=on,device-iotlb=on', 'Need to set PASID for svm'],
  ['pasid-bits=8', 'Need to set scalable mode for PASID'],
  ['pt=off', "Property 'intel-iommu.pt' not found"],
  ['dma-drain=off', "Property 'intel-iommu.dma-drain' not found"],
  ['x-profile=best', "x-profile is arch or qemu-11.1, not 'best'"],
  ['intremap=off,eim=on', 'eim=on cannot be selected without intremap=on'],
])('intel-iommu,%s is refused as QEMU refuses it', (text, message) => {
  expect(() => caps(text)).toThrow(message);
});

test.each([
  ['', '0xf00f4b'],
  [',scalable-mode=on', '0x1480080f00f4b'],
  [',scalable-mode=on,fsts=on', '0x1880000f00f4b'],
])('x-page-walk-coherency=on%s adds C, and SMPWCS in scalable mode', (more, ecap) => {
  expect(caps(`x-page-walk-coherency=on${more}`)[1]).toBe(ecap);
});

test('x-profile chooses the profile in the same words as everything else', () => {
  const props = vtdProperties(parseQemuArgs('qemu -device intel-iommu,scalable-mode=on,fsts=on,x-profile=arch'));
  expect([props?.profile, featuresOf(props!).nested]).toEqual(['arch', true]);
});

test('a -global sets the property of the device, the -device text wins over it', () => {
  const line = 'qemu -global intel-iommu.caching-mode=on -global intel-iommu.aw-bits=39 -device intel-iommu,aw-bits=48';
  expect(vtdProperties(parseQemuArgs(line))).toEqual({ ...vtdDefaults(), cachingMode: true });
  expect(vtdProperties(parseQemuArgs('qemu -M q35'))).toBeNull();
});

test('the arch profile offers what QEMU leaves out: nesting, VCMD, abort mode, 57 bits, several fault records', () => {
  const p = { ...vtdDefaults('arch'), scalableMode: true, fsts: true, pasidBits: 20, awBits: 57 };
  const s = identityOf(p);
  const f = featuresOf(p);
  expect(f.nested && s.virtualCommands && f.abortMode && f.firstStage && f.secondStage).toBe(true);
  expect((toBigint(s.capLo, s.capHi) >> 40n) & 0xffn).toBe(7n);
  expect((toBigint(s.capLo, s.capHi) >> 8n) & 0x1fn).toBe(0xen);
  expect((toBigint(s.capLo, s.capHi) >> 60n) & 1n).toBe(1n);
  for (const bit of [26n, 31n, 44n, 46n, 47n, 52n]) expect((toBigint(s.ecapLo, s.ecapHi) >> bit) & 1n).toBe(1n);
});

test('the two profiles differ in named switches only: every one on in qemu-11.1, off in arch', () => {
  for (const k of Object.keys(VTD_DEVIATIONS) as VtdDeviationName[]) {
    expect([k, vtdDeviations('qemu-11.1')[k], vtdDeviations('arch')[k]]).toEqual([k, true, false]);
  }
});

test('every named switch says the rule with its section, then QEMU’s way; single ones can be changed', () => {
  for (const [name, text] of Object.entries(VTD_DEVIATIONS)) expect(text, name).toMatch(/^.*§\d.*\. QEMU\b.+\.$/);
  const deviations = { cfiIgnored: false };
  expect(new Guest('', 'qemu-11.1', { deviations }).vtd.deviations).toEqual({
    ...vtdDeviations('qemu-11.1'),
    cfiIgnored: false,
  });
  expect(() => vtdDeviations('arch', { cfi: true } as object)).toThrow("no deviation 'cfi': cfiIgnored, ");
});
