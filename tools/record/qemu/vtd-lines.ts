import type { Collector } from './collector.ts';
import { hex, number, PERMS, small, type Told, Unreadable } from './lines.ts';

/** Which lines QEMU prints of a VT-d unit, as patterns of `-trace`. */
export const VTD_TRACE = [
  'vtd_reg_read*',
  'vtd_reg_write*',
  'vtd_dmar_translate*',
  'vtd_dmar_fault*',
  'vtd_iotlb_page_*',
  'vtd_frr_new*',
  'vtd_translate_pt*',
  'vtd_inv_desc*',
  'vtd_irq_generate*',
  'vtd_ir_irte_get*',
  'vtd_ir_remap*',
  'vtd_reset_exit*',
] as const;

/** The wait descriptor's status is a doubleword. */
const WAIT_BYTES = 4;
/** Interrupt format of a message's address: 0 is the compatibility format, which QEMU passes on unchanged. */
const REMAPPABLE = 0x10n;

/** A register write as QEMU's own line tells it. */
export function vtdWrite(line: string): { t: 'w'; off: string; size: number; val: string } {
  return { t: 'w', off: hex(number(line, 'addr')), size: small(line, 'size'), val: hex(number(line, 'value')) };
}

function matched(line: string, form: RegExp): RegExpExecArray {
  const found = form.exec(line);
  if (found === null) throw new Unreadable(line.slice(0, 120));
  return found;
}

/** Turns what QEMU prints of a VT-d unit into events. */
export class VtdLines {
  readonly #to: Collector;
  readonly #count: (command: string) => void;
  /** What the lookup before a translation told, and of which address. */
  #lookup: { sid: number; iova: bigint; pte: bigint; told: Told } | null = null;
  #through = false;
  /** The interrupt remapping table entry that was read last, and the one of the message at hand. */
  #read: object | null = null;
  #entry: object | null = null;

  constructor(to: Collector, count: (command: string) => void) {
    this.#to = to;
    this.#count = count;
  }

  /** @param started the guest has accessed a register. @throws Unreadable. */
  line(name: string, line: string, started: boolean): void {
    switch (name) {
      case 'vtd_iotlb_page_hit':
      case 'vtd_iotlb_page_update': {
        const m = matched(line, /sid (0x\w+) iova (0x\w+) slpte (0x\w+) domain (0x\w+)/);
        const told = { tlb: name.endsWith('hit') ? 'hit' : 'miss', pte: hex(BigInt(m[3]!)), did: Number(m[4]) };
        this.#lookup = { sid: Number(m[1]), iova: BigInt(m[2]!), pte: BigInt(m[3]!), told };
        return;
      }
      case 'vtd_translate_pt':
        this.#through = true;
        this.#lookup = null;
        return;
      case 'vtd_dmar_translate':
        if (started) this.#translated(line);
        return;
      case 'vtd_dmar_fault': {
        const [sid, reason] = [small(line, 'sid'), small(line, 'fault')];
        this.#to.add({ t: 'fault', sid, reason, iova: hex(number(line, 'addr')), write: small(line, 'write') === 1 });
        return;
      }
      case 'vtd_frr_new': {
        const [hi, lo] = [hex(number(line, 'high')), hex(number(line, 'low'))];
        this.#to.add({ t: 'fault', frr: small(line, 'index'), hi, lo });
        return;
      }
      case 'vtd_inv_desc':
        this.#count(/desc type (\S+)/.exec(line)?.[1] ?? 'descriptor');
        return;
      case 'vtd_inv_desc_wait_sw': {
        const data = Buffer.alloc(WAIT_BYTES);
        data.writeUInt32LE(small(line, 'data'));
        this.#to.add({ t: 'dst', gpa: hex(number(line, 'addr')), data: data.toString('base64') });
        return;
      }
      case 'vtd_irq_generate':
        this.#to.add({ t: 'irq', addr: hex(number(line, 'addr')), data: hex(number(line, 'data')) });
        return;
      case 'vtd_ir_irte_get': {
        // QEMU prints the upper half of the entry as "low".
        const [hi, lo] = [hex(number(line, 'low')), hex(number(line, 'high'))];
        this.#read = { index: small(line, 'index'), lo, hi };
        this.#entry = null;
        return;
      }
      case 'vtd_ir_remap':
        this.#entry = this.#read;
        return;
      case 'vtd_ir_remap_msi':
        this.#remapped(line);
        return;
    }
  }

  #translated(line: string): void {
    const m = matched(line, /dev (\w+):(\w+)\.(\w+) iova (0x\w+) -> gpa (0x\w+) mask (0x\w+)/);
    const sid = (Number.parseInt(m[1]!, 16) << 8) | (Number.parseInt(m[2]!, 16) << 3) | Number.parseInt(m[3]!, 16);
    const [page, out, mask] = [BigInt(m[4]!), BigInt(m[5]!), BigInt(m[6]!)];
    const before = this.#lookup;
    const e = { t: 'xlat', sid, iova: hex(page), out: hex(out), pageSize: hex(mask + 1n) };
    const aligned = (iova: bigint): bigint => iova - (iova & mask);
    if (before !== null && before.sid === sid && aligned(before.iova) === page) {
      const perm = PERMS[Number(before.pte & 3n)]!;
      const [iova, exact] = [hex(before.iova), hex(out | (before.iova & mask))];
      this.#to.add({ ...e, ...before.told, perm, iova, out: exact });
    } else this.#to.add({ ...e, mode: this.#through ? 'passthrough' : 'disabled-or-pt' });
    this.#lookup = null;
    this.#through = false;
  }

  #remapped(line: string): void {
    const m = matched(line, /\(addr (0x\w+), data (0x\w+)\) -> \(addr (0x\w+), data (0x\w+)\)/);
    const irte = this.#entry;
    this.#entry = null;
    const e = { t: 'irq', remap: true, addr: m[1], data: m[2], outAddr: m[3], outData: m[4] };
    if ((BigInt(m[1]!) & REMAPPABLE) === 0n) this.#to.add({ ...e, compat: true });
    else this.#to.add(irte === null ? e : { ...e, irte });
  }
}
