import { RegisterFile, type RegisterSpec, type RegisterTable } from '../../src/core/registers.ts';
import { FRO, PAGE } from '../../src/spec/vtd/registers.ts';
import type { VtdShape } from './properties.ts';

/** Bytes of the window: QEMU's ends behind its one fault record. */
export function windowBytes(shape: VtdShape): number {
  return shape.deviations.noExtensions ? FRO + 16 : 0x1000;
}

const READ_ONLY: RegisterSpec = { at: 0, size: 8 };

function hide(table: Record<string, RegisterSpec>, names: readonly string[]): void {
  for (const name of names) table[name] = { ...READ_ONLY, at: table[name]!.at, size: table[name]!.size };
}

/** The page's table with what this unit lacks made read-only zero. */
function tableOf(shape: VtdShape): RegisterTable {
  const { deviations, props } = shape;
  const t: Record<string, RegisterSpec> = { ...PAGE };
  const qw = (lo: number, hi: number): bigint => (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
  t.CAP = { ...PAGE.CAP, reset: qw(shape.capLo, shape.capHi) };
  t.ECAP = { ...PAGE.ECAP, reset: qw(shape.ecapLo, shape.ecapHi) };
  const queueErrors = deviations.noQueueErrorRecord || !props.deviceIotlb ? 0n : 0x60n;
  t.FSTS = { ...PAGE.FSTS, w1c: 0x11n | queueErrors };
  if (deviations.upperAddressesFixed || !props.eim) hide(t, ['FEUADDR', 'IEUADDR']);
  if (!deviations.upperAddressesFixed && !props.eim) hide(t, ['PEUADDR']);
  if (!deviations.wideInvalidationData) t.IEDATA = { ...PAGE.IEDATA, rw: 0xffffn };
  if (deviations.pageEventsUnmasked) t.PECTL = { ...PAGE.PECTL, reset: 0n };
  if (!shape.prs) hide(t, ['PQH', 'PQT', 'PQA', 'PRS', 'PECTL', 'PEDATA', 'PEADDR', 'PEUADDR']);
  delete t.FRCD_LO;
  delete t.FRCD_HI;
  for (let i = 0; i < shape.records; i++) {
    t[`FRCD${i}_LO`] = { ...PAGE.FRCD_LO, at: FRO + 16 * i };
    t[`FRCD${i}_HI`] = { ...PAGE.FRCD_HI, at: FRO + 16 * i + 8 };
  }
  if (!shape.virtualCommands) hide(t, ['VCMD', 'VCMD_EO']);
  else t.VCCAP = { ...PAGE.VCCAP, reset: 1n };
  const bytes = windowBytes(shape);
  return Object.fromEntries(Object.entries(t).filter(([, r]) => r.at + r.size <= bytes));
}

export function registerPage(shape: VtdShape): RegisterFile {
  return new RegisterFile(tableOf(shape), windowBytes(shape));
}
