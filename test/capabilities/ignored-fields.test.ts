import { describe, expect, test } from 'vitest';
import { ACCESS } from '../../src/ports/dma.ts';
import { EVENT } from '../../src/spec/smmuv3/events.ts';
import { Probe } from './bed.ts';
import { cfgiSte, driving, R, S2_RW, type Smmuv3Shape, smmuv3Bed } from './smmuv3/machine.ts';

const SID = 0x10;
const VA = 0x1234_5000;

/** Fields of word 1 of an STE that are hints, or belong to features this SMMU does not show (IHI 0070 §5.2). */
const HINTS: readonly [name: string, bits: bigint][] = [
  ['S1CIR, S1COR, S1CSH', 0xfcn],
  ['S2HWU59 to S2HWU62', 0xf00n],
  ['DRE', 1n << 12n],
  ['CONT', 0xfn << 13n],
  ['DCP', 1n << 17n],
  ['SW_RESERVED', 0xfn << 20n],
  ['S2FWB (IDR3.FWB=0)', 1n << 25n],
  ['S1MPAM (IDR3.MPAM=0)', 1n << 26n],
  ['MEMATTR, MTCFG, ALLOCCFG, SHCFG (IDR1.ATTR_TYPES_OVR=0)', (0x1ffn << 32n) | (3n << 44n)],
  ['PRIVCFG (IDR1.ATTR_PERMS_OVR=0)', 3n << 48n],
  ['INSTCFG (IDR1.ATTR_PERMS_OVR=0)', 3n << 50n],
];

/** What a stream with these bits in its entry does: a page, a privileged page, a hole; and what is recorded. */
function behaviour(bits: bigint, stage: 1 | 2) {
  const bed = smmuv3Bed({ stage: 'nested', ssidsize: 4 } as Smmuv3Shape);
  const g = driving(bed);
  const fn = new Probe({ pasid: { width: 4, priv: true, exec: true } });
  bed.plug(fn, SID);
  const [tables, pa] = [g.tables(), bed.page()];
  if (stage === 1) {
    tables.map(VA, pa);
    // Privileged accesses only.
    tables.map(VA + 0x1000, pa, 3, 0xc00n);
    const cds = bed.pages();
    bed.put(cds + 64, ...g.cd(tables.root, { asid: 0x11 }));
    bed.put(cds, ...g.cd(tables.root, { asid: 0x11 }));
    g.ste(SID, BigInt(cds) | 0xbn | (4n << 59n), 2n | bits);
  } else {
    tables.map(VA, pa, 3, S2_RW);
    g.ste(SID, 0xdn, bits, ...g.vtcr(tables, 3));
  }
  const pasid = stage === 1 ? 1 : -1;
  const outcomes = [
    fn.write(VA, 7, pasid),
    bed.get32(pa),
    fn.write(VA + 0x1000, 8, pasid, stage === 1 ? ACCESS.PRIV : 0),
    fn.write(VA + 0x1000, 9, pasid),
    fn.read(VA + 0x5000, pasid, stage === 1 ? ACCESS.EXEC : 0),
  ];
  return { outcomes, records: g.records() };
}

describe('fields of an STE that are hints or of features that are not there', () => {
  test.each([1, 2] as const)('change neither what a stream of stage %i reaches nor what is recorded', (stage) => {
    const plain = behaviour(0n, stage);
    expect(plain.records.map((r) => Number(r[0]! & 0xffn))).toContain(EVENT.F_TRANSLATION);
    for (const [name, bits] of HINTS) expect([name, behaviour(bits, stage)]).toEqual([name, plain]);
  });
});

describe('commands of features that are not there, and hints', () => {
  test('CMD_PREFETCH_CONFIG and CMD_PREFETCH_ADDR record nothing, whatever they name, and later accesses find what is there then', () => {
    const bed = smmuv3Bed({});
    const g = driving(bed);
    const fn = new Probe();
    bed.plug(fn, SID);
    const [tables, pa] = [g.tables(), bed.page()];
    tables.map(VA, pa);
    const prefetch = (sid: number) => {
      g.run([1n | (BigInt(sid) << 32n), 0n], [2n | (BigInt(sid) << 32n), BigInt(VA)]);
      return g.faults();
    };
    // No entry, no such stream, a page that is not mapped, and one that is.
    expect([prefetch(SID), prefetch(0x7777)]).toEqual([[], []]);
    const cd = bed.pages();
    bed.put(cd, ...g.cd(tables.root));
    bed.put(g.streams + 64 * SID, BigInt(cd) | 0xbn, 0n);
    g.run(cfgiSte(SID));
    expect([prefetch(SID), prefetch(SID)]).toEqual([[], []]);
    bed.arrives(fn, VA, pa);
    bed.refused(fn, VA + 0x1000);
    expect(g.faults()).toEqual([EVENT.F_TRANSLATION]);
  });

  test.each([
    ['CMD_TLBI_EL2_ALL', 0x20n],
    ['CMD_TLBI_EL2_ASID', 0x21n],
    ['CMD_TLBI_EL2_VA', 0x22n],
    ['CMD_TLBI_EL2_VAA', 0x23n],
    ['CMD_TLBI_EL3_ALL', 0x18n],
    ['CMD_CFGI_VMS_PIDM', 0x07n],
  ])('%s is CERROR_ILL, and the queue goes on when it is skipped', (_, op) => {
    const bed = smmuv3Bed({});
    const g = driving(bed);
    expect([g.field('IDR0', 'HYP'), g.field('IDR3', 'MPAM')]).toEqual([0, 0]);
    expect([g.ring([op, 0n]), bed.r(R.GERROR) & 1]).toEqual([1, 1]);
    g.skip();
    g.run();
  });
});
