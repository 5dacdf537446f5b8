import { PAGE } from '../../spec/vtd/registers.ts';

type Fields = Readonly<Record<string, readonly [at: number, bits: number]>>;

/** Puts named fields into a register value. */
function build<F extends Fields>(fields: F, values: Partial<Record<keyof F, number>>): bigint {
  let out = 0n;
  for (const [name, value] of Object.entries(values) as [keyof F & string, number][]) {
    const f = fields[name];
    if (f !== undefined) out |= (BigInt(value) & ((1n << BigInt(f[1])) - 1n)) << BigInt(f[0]);
  }
  return out;
}

/**
 * A host's unit with everything: scalable mode, both stages with 4 and 5 levels, all page sizes, nesting, accessed and
 * dirty flags, snoop control, device TLBs, page requests, 20-bit PASIDs. 65536 domain ids.
 */
export const FULL_CAP = build(PAGE.CAP.fields, {
  ND: 6,
  SAGAW: 0xe,
  MGAW: 56,
  FRO: 0x22,
  SSLPS: 3,
  PSI: 1,
  MAMV: 18,
  DWD: 1,
  DRD: 1,
  FS1GP: 1,
  FS5LP: 1,
  ESRTPS: 1,
});
/** The extended capability register of that unit. */
export const FULL_ECAP = build(PAGE.ECAP.fields, {
  C: 1,
  QI: 1,
  DT: 1,
  IR: 1,
  EIM: 1,
  PT: 1,
  SC: 1,
  IRO: 0xf,
  MHMV: 15,
  NEST: 1,
  PRS: 1,
  SRS: 1,
  NWFS: 1,
  EAFS: 1,
  PSS: 19,
  PASID: 1,
  PDS: 1,
  SMTS: 1,
  SSADS: 1,
  SSTS: 1,
  FSTS: 1,
  SMPWCS: 1,
});
