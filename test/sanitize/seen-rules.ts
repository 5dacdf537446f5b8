import { expect } from 'vitest';
import type { Finding } from '../../src/sanitize/index.ts';

/** What one judgement of a guest said, and in which test. */
export interface Judged {
  readonly iommu: 'smmuv3' | 'vtd';
  readonly test: string;
  readonly found: ReadonlySet<string>;
}

/** Every judgement of the tests in this process, in order. */
export const JUDGED: Judged[] = [];

/** A guest of a test was judged. */
export function judged(iommu: 'smmuv3' | 'vtd', findings: readonly Finding[]): Finding[] {
  JUDGED.push({ iommu, test: expect.getState().currentTestName ?? '', found: new Set(findings.map((f) => f.rule)) });
  return [...findings];
}
