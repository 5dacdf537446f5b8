import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { checkSmmuv3Properties, smmuv3Defaults, smmuv3Properties } from '../../../devices/smmuv3/properties.ts';
import { SMMUV3_PROPERTY_NAMES, smmuv3Help } from '../../../devices/smmuv3/property-help.ts';
import { vtdDefaults, vtdProperties } from '../../../devices/vtd/properties.ts';
import { VTD_PROPERTY_NAMES, vtdHelp } from '../../../devices/vtd/property-help.ts';
import { parseQemuArgs } from '../../../src/lib/qemu-args/qemu-args.ts';

const ROOT = join(import.meta.dirname, '../../..');

/** Runs one of the executables. @returns status, output, errors. */
function run(name: string, ...args: string[]): Promise<[number | null, string, string]> {
  return new Promise((resolve) => {
    const child = spawn(join(ROOT, 'tools/bin', name), args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let out = '';
    let errors = '';
    child.stdout.on('data', (d) => {
      out += d;
    });
    child.stderr.on('data', (d) => {
      errors += d;
    });
    child.on('close', (code) => resolve([code, out, errors]));
  });
}

/** What QEMU 11.1.3 prints for `-device DEVICE,help`. */
const qemu = (device: string) => readFileSync(join(import.meta.dirname, 'help', `${device}.txt`), 'utf8');
const spelled = (name: string) => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);

describe.each([
  ['arm-smmuv3', smmuv3Help, SMMUV3_PROPERTY_NAMES, smmuv3Defaults()],
  ['intel-iommu', vtdHelp, VTD_PROPERTY_NAMES, vtdDefaults()],
] as const)('-device %s,help', (device, help, names, defaults) => {
  test('has QEMU’s properties as QEMU prints them, and ours beside them, in QEMU’s form and order', () => {
    const lines = help().trimEnd().split('\n');
    const theirs = qemu(device).trimEnd().split('\n');
    expect(lines.filter((l) => theirs.includes(l))).toEqual(theirs);
    const own = lines.filter((l) => !theirs.includes(l));
    for (const line of own) expect(line).toMatch(/^ {2}[\w-]+=<\w+> +- viommu: .+ \(default: .+\)$/);
    expect(lines.slice(1)).toEqual([...lines.slice(1)].sort());
  });

  test('has every property that a device has', () => {
    const ours: Readonly<Record<string, string>> = {
      profile: 'x-profile',
      queuedInvalidation: 'x-queued-invalidation',
      pageWalkCoherency: 'x-page-walk-coherency',
      postedInterrupts: 'x-posted-interrupts',
      esirtps: 'x-esirtps',
      vcmdDelay: 'x-vcmd-delay',
    };
    const fields = Object.keys(defaults).filter((field) => field !== 'id');
    expect(fields.map((field) => ours[field] ?? spelled(field)).filter((name) => !names.includes(name))).toEqual([]);
  });
});

test('every property that the help has is taken on a command line', () => {
  const value = (name: string) =>
    name === 'x-profile' ? 'arch' : name === 'stage' ? '1' : name === 'oas' ? '44' : '0';
  for (const name of SMMUV3_PROPERTY_NAMES) {
    expect(
      () => smmuv3Properties(parseQemuArgs(['-device', `arm-smmuv3,${name}=${value(name)}`]), 'arch'),
      name,
    ).not.toThrow();
  }
  for (const name of VTD_PROPERTY_NAMES) {
    const text =
      name === 'x-profile' ? 'arch' : name === 'aw-bits' ? '48' : name === 'x-queued-invalidation' ? 'on' : '0';
    expect(() => vtdProperties(parseQemuArgs(['-device', `intel-iommu,${name}=${text}`])), name).not.toThrow();
  }
  expect(checkSmmuv3Properties(smmuv3Defaults('arch')).msi).toBe(true);
});

// What QEMU 11.1.3 says, and behind it what is possible.
const REFUSED = [
  ['arm-smmuv3', 'oas=45', "Parameter 'oas' does not accept value '45'", '32, 36, 40, 42, 44 or 48'],
  ['arm-smmuv3', 'ssidsize=21', "Parameter 'ssidsize' does not accept value '21'", 'from 0 to 20'],
  ['arm-smmuv3', 'ssidsize=-1', "Parameter 'ssidsize' does not accept value '-1'", 'from 0 to 20'],
  ['arm-smmuv3', 'ats=perhaps', "Parameter 'ats' does not accept value 'perhaps'", 'on or off, or auto'],
  ['arm-smmuv3', 'msi-gpa=xyz', "Parameter 'msi-gpa' expects integer", 'from 0 to 4503599627370495'],
  ['arm-smmuv3', 'stages=1', "Property 'arm-smmuv3.stages' not found", 'stages'],
  ['arm-smmuv3', 'httu=3', "Parameter 'httu' expects uint8_t", 'from 0 to 2'],
  ['intel-iommu', 'aw-bits=300', "Parameter 'aw-bits' expects uint8_t", 'from 0 to 255'],
  ['intel-iommu', 'aw-bits=x', "Parameter 'aw-bits' expects integer", 'from 0 to 255'],
  ['intel-iommu', 'pasid-bits=-1', "Parameter 'pasid-bits' expects uint8_t", 'from 0 to 255'],
  ['intel-iommu', 'eim=perhaps', "Parameter 'eim' does not accept value 'perhaps'", 'on or off, or auto'],
  ['intel-iommu', 'fsts=perhaps', "Parameter 'fsts' expects 'on' or 'off'", 'on or off'],
  ['intel-iommu', 'flts2=on', "Property 'intel-iommu.flts2' not found", 'flts2'],
  [
    'intel-iommu',
    'scalable-mode=on,pasid-bits=21',
    'PASID width 21 exceeds Max PASID Width 20 allowed in PCI spec',
    '20',
  ],
] as const;

test.each(REFUSED)('-device %s,%s is refused in QEMU’s words, with the range', (device, text, words, range) => {
  const args = parseQemuArgs(['-device', `${device},${text}`]);
  let message = '';
  try {
    if (device === 'arm-smmuv3') smmuv3Properties(args);
    else vtdProperties(args);
  } catch (error) {
    message = (error as Error).message;
  }
  expect(message.startsWith(`-device ${device},${text}: ${words}`), message).toBe(true);
  expect(message).toContain(range);
});

describe('the executables', () => {
  test('print it and end with status 0; for a device they have not with status 1', async () => {
    expect(await run('viommu-system-aarch64', '-M', 'virt', '-device', 'arm-smmuv3,help')).toEqual([
      0,
      smmuv3Help(),
      '',
    ]);
    expect(await run('viommu-system-x86_64', '-device', 'intel-iommu,?')).toEqual([0, vtdHelp(), '']);
    const [status, out, errors] = await run('viommu-system-x86_64', '-device', 'arm-smmuv3,help');
    expect([status, out, /arm-smmuv3/.test(errors)]).toEqual([1, '', true]);
  });

  test('refuse with the name of the program and the option before the reason, and status 1', async () => {
    const args = ['-qtest', 'unix:/nowhere', '-M', 'virt', '-device', 'arm-smmuv3,x-profile=arch,ssidsize=21'];
    const [status, , errors] = await run('viommu-system-aarch64', ...args);
    expect(status).toBe(1);
    expect(errors).toMatch(
      /^viommu-system-aarch64: -device arm-smmuv3,x-profile=arch,ssidsize=21: Parameter 'ssidsize' does not accept value '21'/,
    );
  });
});
