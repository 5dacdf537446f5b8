/**
 * Arm IHI 0070 issue G.b (System Memory Management Unit architecture, version 3): commands and the command queue,
 * chapter 4.
 */

import { field, fromWords, toBigint } from '../../core/bits.ts';

/** Bytes and words of a command-queue entry (IHI 0070 §4.1). */
export const COMMAND_BYTES = 16;
/** 32-bit words of a command. */
export const COMMAND_WORDS = 4;

/** Opcodes of the Non-secure command queue, and the EL3 ones a guest may try (IHI 0070 §4.1.2). */
// biome-ignore format: table
export const OP = {
  PREFETCH_CONFIG: 0x01, PREFETCH_ADDR: 0x02,
  CFGI_STE: 0x03, CFGI_STE_RANGE: 0x04, CFGI_CD: 0x05, CFGI_CD_ALL: 0x06, CFGI_VMS_PIDM: 0x07,
  TLBI_NH_ALL: 0x10, TLBI_NH_ASID: 0x11, TLBI_NH_VA: 0x12, TLBI_NH_VAA: 0x13,
  TLBI_EL3_ALL: 0x18, TLBI_EL3_VA: 0x1a,
  TLBI_EL2_ALL: 0x20, TLBI_EL2_ASID: 0x21, TLBI_EL2_VA: 0x22, TLBI_EL2_VAA: 0x23,
  TLBI_S12_VMALL: 0x28, TLBI_S2_IPA: 0x2a, TLBI_NSNH_ALL: 0x30,
  ATC_INV: 0x40, PRI_RESP: 0x41, RESUME: 0x44, STALL_TERM: 0x45, SYNC: 0x46,
} as const;
/** Name of a command's opcode. */
export type OpName = keyof typeof OP;
/** An opcode that is not reserved. */
export type Opcode = (typeof OP)[OpName];

/** Whether a command's own words can make it illegal, beside its opcode: which of its fields have reserved encodings. */
export const RESERVED_FIELD = {
  /** Bit 10 names a Secure stream, which the Non-secure queue may not (IHI 0070 §4.1.5). */
  SSEC: 1,
  /** A range form (TG≠0) with NUM=SCALE=TTL=0 names no range (§4.4.1). */
  RANGE: 2,
  /** Size above 52 (§4.5.1). */
  ATC_SIZE: 4,
  /** Resp 3 (§4.5.2). */
  RESP: 8,
  /** CS 3 (§4.7.3). */
  CS: 16,
} as const;

/** Which feature of the SMMU makes a command legal, by the name of its field in IDR0 (§4.1.2). EL3 and MPAM are not modelled. */
export type CommandNeeds = 'nothing' | 'S1P' | 'S2P' | 'HYP' | 'EL3' | 'MPAM' | 'ATS' | 'PRI' | 'STALL_MODEL';

/** What makes a command legal or not. */
export interface CommandRow {
  /** Feature the command needs. */
  readonly needs: CommandNeeds;
  /** RESERVED_FIELD bits. */
  readonly reserved: number;
}

const { SSEC: SECURE, RANGE, ATC_SIZE, RESP, CS } = RESERVED_FIELD;

/**
 * Every command once. Names, legality and, through the exhaustive switches over `Opcode`, whoever executes or shows
 * commands follow from it: a command added to OP does not compile until it has a row here and a case there.
 */
// biome-ignore format: table
export const COMMANDS: Readonly<Record<OpName, CommandRow>> = {
  PREFETCH_CONFIG: { needs: 'nothing',     reserved: SECURE },
  PREFETCH_ADDR:   { needs: 'nothing',     reserved: SECURE },
  CFGI_STE:        { needs: 'nothing',     reserved: SECURE },
  CFGI_STE_RANGE:  { needs: 'nothing',     reserved: SECURE },
  CFGI_CD:         { needs: 'S1P',         reserved: SECURE },
  CFGI_CD_ALL:     { needs: 'S1P',         reserved: SECURE },
  CFGI_VMS_PIDM:   { needs: 'MPAM',        reserved: 0 },
  TLBI_NH_ALL:     { needs: 'S1P',         reserved: 0 },
  TLBI_NH_ASID:    { needs: 'S1P',         reserved: 0 },
  TLBI_NH_VA:      { needs: 'S1P',         reserved: RANGE },
  TLBI_NH_VAA:     { needs: 'S1P',         reserved: RANGE },
  TLBI_EL3_ALL:    { needs: 'EL3',         reserved: 0 },
  TLBI_EL3_VA:     { needs: 'EL3',         reserved: 0 },
  TLBI_EL2_ALL:    { needs: 'HYP',         reserved: 0 },
  TLBI_EL2_ASID:   { needs: 'HYP',         reserved: 0 },
  TLBI_EL2_VA:     { needs: 'HYP',         reserved: RANGE },
  TLBI_EL2_VAA:    { needs: 'HYP',         reserved: RANGE },
  TLBI_S12_VMALL:  { needs: 'S2P',         reserved: 0 },
  TLBI_S2_IPA:     { needs: 'S2P',         reserved: RANGE },
  TLBI_NSNH_ALL:   { needs: 'nothing',     reserved: 0 },
  ATC_INV:         { needs: 'ATS',         reserved: ATC_SIZE },
  PRI_RESP:        { needs: 'PRI',         reserved: RESP },
  RESUME:          { needs: 'STALL_MODEL', reserved: SECURE },
  STALL_TERM:      { needs: 'STALL_MODEL', reserved: SECURE },
  SYNC:            { needs: 'nothing',     reserved: CS },
};

const NAME_BY_OP = new Map<number, OpName>(Object.entries(OP).map(([name, op]) => [op, name as OpName]));

/** The command with this opcode; undefined: reserved. */
export const commandName = (op: number): OpName | undefined => NAME_BY_OP.get(op);

/** SMMU_CMD_… as QEMU's trace prints it, by opcode; INVALID for reserved ones. CFGI_ALL is SMMU_CMD_CFGI_STE_RANGE. */
export const COMMAND_NAMES: readonly string[] = Array.from({ length: 256 }, (_, op) => {
  const name = commandName(op);
  return name === undefined ? 'INVALID' : `SMMU_CMD_${name}`;
});

/** CMD_SYNC.CS: how the completion is signalled (IHI 0070 §4.7.3). */
export const SYNC_CS = { NONE: 0, IRQ: 1, SEV: 2 } as const;
/** CMD_PRI_RESP.Resp (IHI 0070 §4.5.2); 3 is illegal. */
export const PRI_RESP = { DENY: 0, FAIL: 1, SUCCESS: 2 } as const;
/** CMD_RESUME: bit 12 is Ac (retry), bit 13 Ab (abort) when Ac is clear (IHI 0070 §4.7.1). */
export const RESUME_AC = 1 << 12;
/** CMD_RESUME.Ab: the transaction aborts. */
export const RESUME_AB = 1 << 13;
/** Bit 10 of word 0: the command names a Secure stream. */
export const SSEC = 1 << 10;
/** Bit 11 of word 0: the SubstreamID is valid. */
export const SSV = 1 << 11;
/** Bit 9 of word 0 of an ATC_INV with SSV: it reaches every SubstreamID (IHI 0070 §4.5.1). */
export const ATC_GLOBAL = 1 << 9;
/** CFGI_STE_RANGE with this Range is CFGI_ALL. */
export const RANGE_ALL = 31;
/** ATC_INV.Size that covers the whole address space. */
export const ATC_SIZE_ALL = 52;

/** Field accessors: each takes the word it reads. w0 and w1 are bits [31:0] and [63:32] of the first 64-bit word. */
export const cmdOp = (w0: number) => w0 & 0xff;
/** SubstreamID of CFGI_CD, ATC_INV, PRI_RESP. */
export const cmdSsid = (w0: number) => w0 >>> 12;
/** CFGI_STE_RANGE.Range: 2^(Range+1) StreamIDs. */
export const cmdRange = (w2: number) => w2 & 31;
/** VMID of a TLBI. */
export const cmdVmid = (w1: number) => w1 & 0xffff;
/** ASID of a TLBI. */
export const cmdAsid = (w1: number) => w1 >>> 16;
/** Range-invalidation NUM (range is NUM + 1 units) and SCALE; TG and TTL are in word 2 (IHI 0070 §4.4.1). */
export const cmdNum = (w0: number) => field(w0, 12, 5);
/** SCALE of a range TLBI. */
export const cmdScale = (w0: number) => field(w0, 20, 5);
/** TTL of a TLBI: the level of the entries named, 0 for any. */
export const cmdTtl = (w2: number) => field(w2, 8, 2);
/** TG of a TLBI: the granule of a range, 0 for none. */
export const cmdTg = (w2: number) => field(w2, 10, 2);
/** ATC_INV.Size: 2^Size pages. */
export const cmdAtcSize = (w2: number) => w2 & 63;
/** PRI_RESP: the page request group and what is answered. */
export const cmdGroup = (w2: number) => w2 & 0x1ff;
/** PRI_RESP.Resp: what is answered. */
export const cmdResp = (w2: number) => field(w2, 12, 2);
/** The stalled transaction of RESUME. */
export const cmdStag = (w2: number) => w2 & 0xffff;
/** CMD_SYNC.CS: how completion is signalled. */
export const syncCs = (w0: number) => field(w0, 12, 2);
/** MSIAddress[51:2] in bytes. */
export const syncMsiAddress = (w2: number, w3: number) => fromWords(w2 & ~3, w3 & 0xf_ffff);
/** IPA[51:12] of TLBI_S2_IPA, in bytes. */
export const cmdIpa = (w2: number, w3: number) => fromWords(w2 & ~0xfff, w3 & 0xf_ffff);

/** Fields of a TLB invalidation by address. */
export interface Tlbi {
  /** VMID. */
  readonly vmid: number;
  /** ASID. */
  readonly asid: number;
  /** Address (bytes). */
  readonly address: bigint;
  /** Only the last level's entries. */
  readonly leaf: boolean;
  /** Granule of a range, 0 for none. */
  readonly tg: number;
  /** Level of the entries, 0 for any. */
  readonly ttl: number;
  /** NUM of a range. */
  readonly num: number;
  /** SCALE of a range. */
  readonly scale: number;
}

/** A command as an object, for listings, traces and tests. The device never builds one. */
export type Command =
  | { readonly op: 'PREFETCH_CONFIG' | 'PREFETCH_ADDR'; readonly sid: number; readonly ssid: number }
  | { readonly op: 'CFGI_STE'; readonly sid: number; readonly leaf: boolean }
  | { readonly op: 'CFGI_STE_RANGE'; readonly sid: number; readonly range: number }
  | { readonly op: 'CFGI_CD'; readonly sid: number; readonly ssid: number; readonly leaf: boolean }
  | { readonly op: 'CFGI_CD_ALL' | 'STALL_TERM'; readonly sid: number }
  | ({
      readonly op: 'TLBI_NH_VA' | 'TLBI_NH_VAA' | 'TLBI_S2_IPA' | 'TLBI_EL2_VA' | 'TLBI_EL2_VAA' | 'TLBI_EL3_VA';
    } & Tlbi)
  | { readonly op: 'TLBI_NH_ASID' | 'TLBI_EL2_ASID'; readonly vmid: number; readonly asid: number }
  | { readonly op: 'TLBI_NH_ALL' | 'TLBI_S12_VMALL' | 'CFGI_VMS_PIDM'; readonly vmid: number }
  | { readonly op: 'TLBI_NSNH_ALL' | 'TLBI_EL2_ALL' | 'TLBI_EL3_ALL' }
  | {
      readonly op: 'ATC_INV';
      readonly sid: number;
      readonly ssid: number | null;
      readonly global: boolean;
      readonly address: bigint;
      readonly size: number;
    }
  | {
      readonly op: 'PRI_RESP';
      readonly sid: number;
      readonly ssid: number | null;
      readonly group: number;
      readonly resp: number;
    }
  | { readonly op: 'RESUME'; readonly sid: number; readonly stag: number; readonly resp: number }
  | { readonly op: 'SYNC'; readonly cs: number; readonly msiAddress: number; readonly msiData: number }
  | { readonly op: 'reserved'; readonly opcode: number };

/** The entry at word index `at` of `q`, for human eyes. */
export function decodeCommand(q: Int32Array, at = 0): Command {
  const [w0, w1, w2, w3] = [q[at]!, q[at + 1]!, q[at + 2]!, q[at + 3]!];
  const op = commandName(cmdOp(w0));
  const sid = w1 >>> 0;
  const leaf = (w2 & 1) !== 0;
  const ssid = (w0 & SSV) !== 0 ? cmdSsid(w0) : null;
  switch (op) {
    case undefined:
      return { op: 'reserved', opcode: cmdOp(w0) };
    case 'PREFETCH_CONFIG':
    case 'PREFETCH_ADDR':
      return { op, sid, ssid: cmdSsid(w0) };
    case 'CFGI_STE':
      return { op, sid, leaf };
    case 'CFGI_STE_RANGE':
      return { op, sid, range: cmdRange(w2) };
    case 'CFGI_CD':
      return { op, sid, ssid: cmdSsid(w0), leaf };
    case 'CFGI_CD_ALL':
    case 'STALL_TERM':
      return { op, sid };
    case 'TLBI_NH_VA':
    case 'TLBI_NH_VAA':
    case 'TLBI_S2_IPA':
    case 'TLBI_EL2_VA':
    case 'TLBI_EL2_VAA':
    case 'TLBI_EL3_VA':
      return {
        op,
        vmid: cmdVmid(w1),
        asid: cmdAsid(w1),
        address: toBigint(w2 & ~0xfff, w3),
        leaf,
        tg: cmdTg(w2),
        ttl: cmdTtl(w2),
        num: cmdNum(w0),
        scale: cmdScale(w0),
      };
    case 'TLBI_NH_ASID':
    case 'TLBI_EL2_ASID':
      return { op, vmid: cmdVmid(w1), asid: cmdAsid(w1) };
    case 'TLBI_NH_ALL':
    case 'TLBI_S12_VMALL':
    case 'CFGI_VMS_PIDM':
      return { op, vmid: cmdVmid(w1) };
    case 'TLBI_NSNH_ALL':
    case 'TLBI_EL2_ALL':
    case 'TLBI_EL3_ALL':
      return { op };
    case 'ATC_INV':
      return {
        op,
        sid,
        ssid,
        global: (w0 & ATC_GLOBAL) !== 0,
        address: toBigint(w2 & ~0xfff, w3),
        size: cmdAtcSize(w2),
      };
    case 'PRI_RESP':
      return { op, sid, ssid, group: cmdGroup(w2), resp: cmdResp(w2) };
    case 'RESUME':
      return { op, sid, stag: cmdStag(w2), resp: field(w0, 12, 2) };
    case 'SYNC':
      return { op, cs: syncCs(w0), msiAddress: syncMsiAddress(w2, w3), msiData: w1 >>> 0 };
  }
}
