import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Block, blocks, has, InstalledProject, workflowSteps } from './installed.ts';

// docs/iommufd-ci.md as its reader follows it: in an empty project, with the installed package.

const PAGE = 'docs/iommufd-ci.md';
const WORKFLOW = readFileSync('docs/examples/iommufd-ci.yml', 'utf8');
const STEPS = workflowSteps(WORKFLOW);

test('the page shows the workflow that is in the package', () => {
  expect(blocks(PAGE).find((b) => b.name === 'iommufd-ci.yml')?.text).toBe(WORKFLOW);
});

test('the workflow needs nothing but Node and what its steps install', () => {
  expect(STEPS[0]).toBe('npm install --no-save viommu');
  expect(STEPS.join('\n')).not.toMatch(/sudo|\$\{\{/);
  expect(WORKFLOW).toContain('backend: [mock, smmuv3, vtd]');
  expect(WORKFLOW).toMatch(/^ *BACKEND: \$\{\{ matrix\.backend \}\}$/m);
});

describe.runIf(has('cc', '--version') && has('make', '--version') && has('python3', '--version'))('followed', () => {
  let project: InstalledProject;
  let files: Block[] = [];
  const text = (name: string): string => files.find((b) => b.name === name)!.text;

  beforeAll(() => {
    project = new InstalledProject();
    files = project.copy(PAGE);
    // The first step of the workflow is done: the package is installed, from here and not from a registry.
    const built = project.step(STEPS[1]!);
    if (built.status !== 0) throw new Error(built.out + built.err);
  }, 300_000);
  afterAll(() => project?.remove(), 120_000);

  test.each(['mock', 'smmuv3', 'vtd'])('the clients of the workflow pass on %s', (backend) => {
    const ran = project.step(STEPS[2]!, { BACKEND: backend });
    expect(ran.err).toContain(`viommu iommufd: ${backend} on `);
    expect(ran.out).toBe(text('client.out') + text('client-py.out'));
    expect(ran.status).toBe(0);
  });

  test('a client that is refused says with which errno, and the step fails', () => {
    const ran = project.step('sh with-iommufd.sh smmuv3 ./client 0x100\necho went on');
    expect(ran.out).toBe(text('refused.out'));
    expect(ran.status).toBe(1);
  });

  test('without the server every open fails as the page says', () => {
    const ran = project.step('./client');
    expect(ran.out).toMatch(/^open \/dev\/iommu +No such file or directory$/m);
    expect(ran.status).toBe(1);
  });

  test('a server that cannot start ends the script', () => {
    const ran = project.step('sh with-iommufd.sh nothing ./client');
    expect(ran.out).toBe('');
    expect(ran.err).toContain('--backend: expected mock, smmuv3 or vtd, found "nothing"');
    expect(ran.status).not.toBe(0);
  });
});
