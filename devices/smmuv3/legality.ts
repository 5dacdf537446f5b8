import type { Smmuv3Features } from '../../src/lib/check/smmuv3-features.ts';
import {
  ATC_SIZE_ALL,
  COMMANDS,
  type CommandNeeds,
  cmdAtcSize,
  cmdNum,
  cmdResp,
  cmdScale,
  cmdTg,
  cmdTtl,
  commandName,
  type Opcode,
  type OpName,
  RESERVED_FIELD,
  SSEC,
  syncCs,
} from '../../src/spec/smmuv3/commands.ts';
import type { Smmuv3Deviations } from './profile.ts';

/** Beside RESERVED_FIELD bits: the opcode alone makes the command illegal. */
const ILLEGAL = 0x80;

/** Whether commands are CERROR_ILL by their own words, judged for one identity and profile (IHI 0070 §4.1 to §4.7). */
export class Smmuv3Legality {
  /** By opcode: ILLEGAL, or the RESERVED_FIELD bits whose fields are looked at. */
  readonly #look = new Uint8Array(256).fill(ILLEGAL);

  constructor(f: Smmuv3Features, d: Smmuv3Deviations) {
    for (let op = 0; op < 256; op++) {
      const name = commandName(op);
      if (name !== undefined)
        this.#look[op] = available(COMMANDS[name].needs, name, f, d) ? looked(name, f, d) : ILLEGAL;
    }
  }

  /** Whether the command may be executed. @param op its opcode, of which this also proves that it is none of the reserved. */
  legal(op: number, w0: number, w2: number): op is Opcode {
    const look = this.#look[op]!;
    if (look === 0) return true;
    if ((look & ILLEGAL) !== 0) return false;
    if ((look & RESERVED_FIELD.SSEC) !== 0 && (w0 & SSEC) !== 0) return false;
    if ((look & RESERVED_FIELD.RANGE) !== 0 && emptyRange(w0, w2)) return false;
    if ((look & RESERVED_FIELD.ATC_SIZE) !== 0 && cmdAtcSize(w2) > ATC_SIZE_ALL) return false;
    if ((look & RESERVED_FIELD.RESP) !== 0 && cmdResp(w2) === 3) return false;
    return (look & RESERVED_FIELD.CS) === 0 || syncCs(w0) !== 3;
  }
}

/** Whether the identity registers show what a command needs. QEMU looks at it for TLB invalidations only. */
function available(needs: CommandNeeds, name: OpName, f: Smmuv3Features, d: Smmuv3Deviations): boolean {
  const consumed = d.absentCommandsConsumed && !QEMU_CHECKS.has(name);
  switch (needs) {
    case 'nothing':
      return true;
    case 'S1P':
      return f.s1p || consumed;
    case 'S2P':
      return f.s2p || consumed;
    case 'HYP':
      return f.hyp || consumed;
    case 'EL3':
      return consumed;
    case 'MPAM':
      return false;
    case 'ATS':
      return f.ats || consumed;
    case 'PRI':
      return f.pri || consumed;
    case 'STALL_MODEL':
      return f.stallModel !== 1 || consumed;
  }
}

/** Commands for which QEMU looks whether the stage they name is there. */
const QEMU_CHECKS: ReadonlySet<OpName> = new Set([
  'TLBI_NH_ALL',
  'TLBI_NH_ASID',
  'TLBI_NH_VA',
  'TLBI_NH_VAA',
  'TLBI_S12_VMALL',
  'TLBI_S2_IPA',
]);
/** Commands in which QEMU looks at SSec. */
const QEMU_CHECKS_SSEC: ReadonlySet<OpName> = new Set(['CFGI_STE', 'CFGI_STE_RANGE', 'CFGI_CD', 'CFGI_CD_ALL']);

/** The reserved encodings that count for a command. */
function looked(name: OpName, f: Smmuv3Features, d: Smmuv3Deviations): number {
  let { reserved } = COMMANDS[name];
  if (d.ssecInCfgiOnly && !QEMU_CHECKS_SSEC.has(name)) reserved &= ~RESERVED_FIELD.SSEC;
  // Without range invalidation TG, NUM, SCALE and TTL are not fields.
  if (d.emptyRangeAccepted || !f.ril) reserved &= ~RESERVED_FIELD.RANGE;
  if (d.absentCommandsConsumed) reserved &= RESERVED_FIELD.SSEC | RESERVED_FIELD.RANGE;
  return reserved;
}

/** TTL=3. */
const LAST_LEVEL = 3 << 8;

/** A range form that names no range: TG≠0 with NUM=SCALE=TTL=0 (§4.4.1). */
function emptyRange(w0: number, w2: number): boolean {
  return cmdTg(w2) !== 0 && cmdNum(w0) === 0 && cmdScale(w0) === 0 && cmdTtl(w2) === 0;
}

/** The word of such a form that the profile accepts, for hardware that does not: a last-level hint makes it legal. */
export function named(w0: number, w2: number): number {
  return emptyRange(w0, w2) ? w2 | LAST_LEVEL : w2;
}
