import { commandName, type OpName } from '../../spec/smmuv3/commands.ts';

const OPCODE = 0xff;
const SSEC_BIT = 1 << 10;
const SSID_BITS = 0xffff_f000 | 0;
const ALL = -1;
const RANGE = OPCODE | (31 << 12) | (31 << 20);
/** Leaf, TTL, TG and the address. */
const BY_ADDRESS = 0xffff_ff01 | 0;

/** Bits that are defined in words 0 to 3 of each command (IHI 0070 §4.3 to §4.7); null: nothing of it is judged. */
// biome-ignore format: table
const DEFINED: Readonly<Record<OpName, readonly [number, number, number, number] | null>> = {
  PREFETCH_CONFIG: [OPCODE | SSEC_BIT | (1 << 11) | SSID_BITS, ALL, 0x1f, 0],
  PREFETCH_ADDR: [OPCODE | SSEC_BIT | (1 << 11) | SSID_BITS, ALL, 0xffff_f21f | 0, ALL],
  CFGI_STE: [OPCODE | SSEC_BIT, ALL, 1, 0],
  CFGI_STE_RANGE: [OPCODE | SSEC_BIT, ALL, 0x1f, 0],
  CFGI_CD: [OPCODE | SSEC_BIT | SSID_BITS, ALL, 1, 0],
  CFGI_CD_ALL: [OPCODE | SSEC_BIT, ALL, 0, 0],
  TLBI_NH_ALL: [OPCODE, 0xffff, 0, 0],
  TLBI_NH_ASID: [OPCODE, ALL, 0, 0],
  TLBI_NH_VA: [RANGE, ALL, BY_ADDRESS, ALL],
  TLBI_NH_VAA: [RANGE, 0xffff, BY_ADDRESS, ALL],
  CFGI_VMS_PIDM: null, TLBI_EL3_ALL: null, TLBI_EL3_VA: null,
  TLBI_EL2_ALL: [OPCODE, 0, 0, 0],
  TLBI_EL2_ASID: [OPCODE, 0xffff_0000 | 0, 0, 0],
  TLBI_EL2_VA: [RANGE, 0xffff_0000 | 0, BY_ADDRESS, ALL],
  TLBI_EL2_VAA: [RANGE, 0, BY_ADDRESS, ALL],
  TLBI_S12_VMALL: [OPCODE, 0xffff, 0, 0],
  TLBI_S2_IPA: [RANGE, 0xffff, BY_ADDRESS, 0xf_ffff],
  TLBI_NSNH_ALL: [OPCODE, 0, 0, 0],
  ATC_INV: [OPCODE | (1 << 9) | (1 << 11) | SSID_BITS, ALL, 0xffff_f03f | 0, ALL],
  PRI_RESP: [OPCODE | (1 << 11) | SSID_BITS, ALL, 0x31ff, 0],
  RESUME: [OPCODE | SSEC_BIT | 0x3000, ALL, 0xffff, 0],
  STALL_TERM: [OPCODE | SSEC_BIT, ALL, 0, 0],
  SYNC: [OPCODE | 0x3000 | 0x0fc0_0000, ALL, -4, 0xf_ffff],
};

/** Reserved bits that a command has set, of all its words together; 0 also for opcodes that are none. */
export function reservedOf(w0: number, w1: number, w2: number, w3: number): number {
  const name = commandName(w0 & OPCODE);
  const d = name === undefined ? null : DEFINED[name];
  if (d === null) return 0;
  return (w0 & ~d[0]) | (w1 & ~d[1]) | (w2 & ~d[2]) | (w3 & ~d[3]);
}
