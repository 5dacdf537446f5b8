import { describe, expect, test } from 'vitest';
import { Sanitizer } from '../../src/sanitize/index.ts';
import { DATA, rulesOf } from './driver.ts';
import { SmmuDriver } from './smmuv3-driver.ts';
import { VtdDriver } from './vtd-driver.ts';

const VA = 0x10_0000;

type Forget = 'all' | 'one page' | 'switched' | 'never';
interface Case {
  /** The function's ATS Enable is told. */
  readonly told?: boolean;
  /** Nothing was mapped. */
  readonly empty?: boolean;
}

/** The function's tables are replaced altogether, and the IOMMU told; then the function. */
function smmu(forget: Forget, { told = true, empty = false }: Case = {}): SmmuDriver {
  const d = new SmmuDriver({ ats: true });
  if (told) d.guest.add({ t: 'ats', sid: d.sid, on: true });
  if (!empty) d.map(VA, DATA);
  d.guest.st(d.cds, 0);
  d.command(0x05n | (BigInt(d.sid) << 32n), 1n);
  d.invalidateAll();
  d.submit();
  d.guest.st(d.cds + 8, d.guest.alloc()).st(d.cds, d.cdWord(6));
  d.command(0x05n | (BigInt(d.sid) << 32n), 1n);
  d.submit();
  forgotten(d, forget, () => d.command(0x40n | (BigInt(d.sid) << 32n), 52n));
  return d;
}

function vtd(forget: Forget, { told = true, empty = false }: Case = {}): VtdDriver {
  const d = new VtdDriver({ ats: true, scalable: true });
  if (told) d.guest.add({ t: 'ats', sid: d.sid, on: true });
  if (!empty) d.map(VA, DATA);
  d.guest.st(d.pasids, 0);
  d.descriptor(7n | (1n << 4n) | (BigInt(d.did) << 16n), 0n);
  d.invalidateAll();
  d.submit();
  d.pasid(0, 6, d.guest.alloc());
  d.descriptor(7n | (1n << 4n) | (6n << 16n), 0n);
  d.submit();
  forgotten(d, forget, () => d.descriptor(3n | (BigInt(d.sid) << 32n), 0x7fff_ffff_ffff_f001n));
  return d;
}

function forgotten(d: SmmuDriver | VtdDriver, forget: Forget, all: () => void): void {
  if (forget === 'all') all();
  if (forget === 'one page') d.invalidateDevice(VA);
  if (forget === 'switched') d.guest.add({ t: 'ats', sid: d.sid, on: false }).add({ t: 'ats', sid: d.sid, on: true });
  for (let n = 0; n < 4; n++) d.submit();
}

describe.each([
  ['SMMUv3', smmu],
  ['VT-d', vtd],
] as const)('%s', (_, replaced) => {
  test('missing-atc-invalidation: other tables altogether, and the function keeps what it has', () => {
    expect(rulesOf(replaced('never'))).toEqual(['missing-atc-invalidation']);
    expect(rulesOf(replaced('one page'))).toEqual(['missing-atc-invalidation']);
  });

  test('not missing-atc-invalidation: it was told to forget all, its ATS was switched, or there was nothing', () => {
    expect(rulesOf(replaced('all'))).toEqual([]);
    expect(rulesOf(replaced('switched'))).toEqual([]);
    expect(rulesOf(replaced('never', { empty: true }))).toEqual([]);
  });

  test('where nothing tells whether ATS was still on, that is said, and nothing is found', () => {
    const unjudged = (forget: Forget) => {
      const d = replaced(forget, { told: false });
      const s = new Sanitizer({ iommu: d.iommu, ram: [{ gpa: 0, size: 2 ** 32 }], devices: [] });
      for (const e of d.guest.events) s.event(e);
      expect(s.finish().filter((f) => f.severity !== 'hint')).toEqual([]);
      return [...s.findings.unjudged()].some(
        ([why, rules]) => /replaced/.test(why) && rules.has('missing-atc-invalidation'),
      );
    };

    expect(unjudged('never')).toBe(true);
    expect(unjudged('all')).toBe(false);
  });
});
