import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Block, blocks, has, InstalledProject, workflowSteps } from './installed.ts';

// docs/driver-ci.md as its reader follows it: in an empty project, with the installed package.

const PAGE = 'docs/driver-ci.md';
const WORKFLOW = readFileSync('docs/examples/driver-ci.yml', 'utf8');
const STEPS = workflowSteps(WORKFLOW);
let project: InstalledProject;
let files: Block[] = [];

beforeAll(() => {
  project = new InstalledProject();
  files = project.copy(PAGE);
}, 300_000);
afterAll(() => project?.remove(), 120_000);

const text = (name: string): string => files.find((b) => b.name === name)!.text;

test('the page shows the workflow that is in the package', () => {
  expect(blocks(PAGE).find((b) => b.name === 'driver-ci.yml')?.text).toBe(WORKFLOW);
});

test('every step of the workflow passes with the page driver', () => {
  const [install, ...steps] = STEPS;
  // The package is installed already, from here and not from a registry.
  expect(install).toBe('npm install --no-save viommu');
  expect(steps).toHaveLength(3);
  for (const step of steps) {
    const ran = project.step(step);
    expect(`${step}: ${ran.status}${ran.status === 0 ? '' : ran.out + ran.err}`).toBe(`${step}: 0`);
  }
});

describe('a driver that forgets', () => {
  beforeAll(() => {
    const ran = project.step('node forgetful.mjs');
    if (ran.status !== 0) throw new Error(ran.err);
  });

  test('is found by its recording: status 1, and the text of the page', () => {
    const ran = project.step('npx --no-install viommu sanitize forgetful.ndjson');
    expect(ran.out).toBe(text('forgetful.out'));
    expect(ran.status).toBe(1);
  });

  test('replays all the same: what was recorded is what the machine does', () => {
    expect(project.step('npx --no-install viommu replay forgetful.ndjson').status).toBe(0);
  });

  test('breaks the test that expects no findings', () => {
    const forgetting = text('driver.test.mjs').replace('    driver.unmap(0x5000);\n', '');
    expect(forgetting).not.toBe(text('driver.test.mjs'));
    project.write('forgetting.test.mjs', forgetting);
    const ran = project.step('node --test forgetting.test.mjs');
    expect(ran.status).toBe(1);
    expect(ran.out).toContain('missing-invalidation');
  });
});

test.each([
  ['replay', 'driver.ndjson'],
  ['sanitize', 'driver.ndjson'],
])('a recording that was changed or cannot be used ends viommu %s with 2', (command, file) => {
  const recording = readFileSync(join(project.folder, file), 'utf8');
  project.write('broken.ndjson', recording.replace('"version":1', '"version":9'));
  expect(project.step(`npx --no-install viommu ${command} broken.ndjson`).status).toBe(2);
});

test('a recording with another answer of a register ends viommu replay with 1', () => {
  const lines = readFileSync(join(project.folder, 'driver.ndjson'), 'utf8').split('\n');
  const read = lines.findIndex((l) => l.includes('"t":"r"'));
  lines[read] = lines[read]!.replace(/"val":"[^"]*"/, '"val":"0x12345678"');
  project.write('other.ndjson', lines.join('\n'));
  expect(project.step('npx --no-install viommu replay other.ndjson').status).toBe(1);
});

test.runIf(has('python3', '--version'))('a qtest client hears what it did wrong as a driver', () => {
  const ran = project.step(text('qtest.sh'));
  expect(ran.err).toBe('');
  expect(ran.out).toBe(text('qtest.out'));
  expect(ran.status).toBe(1);
});
