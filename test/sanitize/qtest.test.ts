import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { parseServerOptions } from '../../src/adapters/qtest/options.ts';
import { SanitizedTarget } from '../../src/adapters/qtest/sanitized.ts';
import { QtestSession } from '../../src/adapters/qtest/session.ts';
import { parseTranscript, runTranscript } from '../../src/adapters/qtest/transcript.ts';
import { Q35 } from '../../src/machine/q35.ts';
import { createQemuMachine } from '../../src/machine/qemu-machine.ts';
import { TraceRecorder } from '../../src/trace/index.ts';

const RAM = [{ gpa: 0, size: 512 << 20 }];

/** A transcript of QEMU's, its client judged: what differs, what is found, what is not judged. */
function judged(name: string) {
  const transcript = parseTranscript(name, readFileSync(`guest-fixtures/qtest/vtd/${name}.qt`, 'utf8'));
  const { machine: args, nic, vga } = parseServerOptions(transcript.args);
  const record = new TraceRecorder('vtd', false);
  const machine = createQemuMachine(args, { nic, vga, record });
  const place = { iommu: 'vtd' as const, base: Q35.VTD, bytes: 0x1000, ram: RAM };
  const target = new SanitizedTarget(machine, machine.map!, place, record);
  const session = new QtestSession(target);
  const { differences } = runTranscript(transcript, (request) => session.execute(request));
  const rules = target.judge.findings().flatMap((f) => (f.severity === 'hint' ? [] : [f.rule]));
  return { differences, rules, unjudged: [...target.judge.unjudged().keys()].join() };
}

test('accesses of functions are told: a page that is used before the invalidation of its change is found', () => {
  const { differences, rules, unjudged } = judged('iotlb-legacy-page');

  expect(differences).toEqual([]);
  expect(rules).toEqual(['missing-invalidation']);
  expect(unjudged).not.toMatch(/no translated access/);
});

test('accesses that are refused without a reason of the unit go through', () => {
  expect(judged('legacy-faults').differences).toEqual([]);
});
