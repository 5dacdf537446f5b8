import { describe, expect, test } from 'vitest';
import { RULE, RULE_IDS, type RuleId } from '../../src/sanitize/rules.ts';
// Their tests are tests of this file as well, and come first: what they saw is looked at below.
import './configuration-rules.test.ts';
import './function-rules.test.ts';
import './nested.test.ts';
import './register-rules.test.ts';
import './translation-rules.test.ts';
import { JUDGED } from './seen-rules.ts';

const IOMMUS = ['smmuv3', 'vtd'] as const;

/** Each rule on each IOMMU it applies to. */
const CASES = RULE_IDS.flatMap((rule) =>
  IOMMUS.flatMap((iommu) => (RULE[rule][iommu] === null ? [] : [[rule, iommu] as const])),
);

/** Tests that name the rule in their title, with what each judgement in them said. */
function named(rule: RuleId, iommu: 'smmuv3' | 'vtd') {
  return JUDGED.filter((j) => j.iommu === iommu && j.test.includes(rule));
}

describe('every rule', () => {
  test.each(CASES)('%s on %s has a test that names it and in which it is found', (rule, iommu) => {
    expect(named(rule, iommu).some((j) => j.found.has(rule))).toBe(true);
  });

  test.each(CASES)('%s on %s has a near miss: a test that says when it is not found', (rule, iommu) => {
    const misses = named(rule, iommu).filter((j) => /\b(not|neither|unless|never)\b/.test(j.test.replaceAll(rule, '')));

    expect(misses.some((j) => !j.found.has(rule))).toBe(true);
  });
});
