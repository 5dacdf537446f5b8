import { ViommuError } from '../../src/core/errors.ts';
import { EVENT, PAGE1, PAGE1_BASE } from '../../src/spec/smmuv3/index.ts';
import type { IommuKind } from '../../src/trace/index.ts';
import type { Imported, ImportedEvent } from './imported.ts';
import { checkCount, logLines } from './log-lines.ts';

/** What QEMU's `log` backend puts before an event's name: `pid@seconds.microseconds:` in some versions. */
const PREFIX = /^(?:\d+@\d+\.\d+:)?\s*/;
const EVENT_NAME = /^((?:smmuv3|smmu|vtd)_\w+)(?:\s|$)/;
const NUMBER = '(0x[0-9a-fA-F]+|\\d+)';
const PERMS = ['', 'r', 'w', 'rw'] as const;
/** smmuv3_trigger_irq's numbers. */
const LINES = ['evtq', 'priq', 'cmd_sync', 'gerror'] as const;
/** QEMU prints the registers of an SMMUv3's page 1 at their offsets in page 0: the indices of event and PRI queue. */
const PAGE0_COPIES: ReadonlySet<number> = new Set(
  [PAGE1.EVENTQ_PROD, PAGE1.EVENTQ_CONS, PAGE1.PRIQ_PROD, PAGE1.PRIQ_CONS].map((r) => r.at),
);
const WAIT_BYTES = 4;

/** A line does not have the form that QEMU 9 to 11 give its event. */
class Unreadable extends Error {}

/** The number after `name=` or `name:` or, with a space, `name `. */
function number(line: string, name: string): string {
  const found = line.match(new RegExp(`\\b${name}[=: ]\\s*${NUMBER}`));
  if (found === null) throw new Unreadable(`no ${name}`);
  return `0x${BigInt(found[1]!).toString(16)}`;
}

const small = (line: string, name: string): number => Number(number(line, name));

/** A number an older version of QEMU does not print. */
function optional(line: string, name: string): number | null {
  return new RegExp(`\\b${name}[=: ]\\s*${NUMBER}`).test(line) ? small(line, name) : null;
}

/** Turns the lines of one log into events, keeping what later lines need of earlier ones. */
class QemuLog {
  readonly events: ImportedEvent[] = [];
  readonly skipped = new Map<string, number>();
  /** What the lookup before an SMMUv3 translation said. */
  #lookup: { addr: string; more: { [field: string]: string | number } } | null = null;
  /** What the lookup before a VT-d translation said. */
  #vtdLookup: { sid: number; iova: bigint; more: { [field: string]: string | number } } | null = null;

  line(name: string, line: string): void {
    const handler = HANDLERS[name];
    if (handler === undefined) this.skipped.set(name, (this.skipped.get(name) ?? 0) + 1);
    else handler(this, line);
  }

  add(e: ImportedEvent): void {
    this.events.push(e);
  }

  register(t: 'r' | 'w', line: string, value: string, offset: string): void {
    const at = small(line, offset);
    const off = value === 'val' && PAGE0_COPIES.has(at) ? at + PAGE1_BASE : at;
    this.add({ t, off: `0x${off.toString(16)}`, size: small(line, 'size'), val: number(line, value) });
  }

  lookup(line: string, more: { [field: string]: string | number }): void {
    this.#lookup = { addr: number(line, 'addr'), more };
  }

  inserted(line: string): void {
    const granule = { 1: 12, 2: 14, 3: 16 }[small(line, 'tg')] ?? 12;
    const bytes = 2 ** (granule + (3 - small(line, 'level')) * (granule - 3));
    if (this.#lookup !== null)
      this.#lookup.more = { tlb: 'miss', pageSize: `0x${bytes.toString(16)}`, asid: optional(line, 'asid') ?? -1 };
  }

  translated(line: string): void {
    const perm = PERMS[small(line, 'perm') & 3]!;
    const more = this.#lookup?.more ?? {};
    this.#lookup = null;
    this.add({
      t: 'xlat',
      sid: small(line, 'sid'),
      iova: number(line, 'iova'),
      perm,
      out: number(line, 'translated'),
      ...more,
    });
  }

  plain(line: string, mode: 'bypass' | 'disabled'): void {
    const iova = number(line, 'iova');
    const perm = small(line, 'is_write') === 1 ? 'w' : 'r';
    this.add({ t: 'xlat', sid: small(line, 'sid'), iova, perm, out: iova, mode });
  }

  /** The address of a refused access is in the lookup before it, if it came to one. */
  smmuFault(line: string): void {
    const type = line.match(/SMMU_EVT_(\w+)/)?.[1] ?? line.match(/^\S+\s+(\w+)\s+sid/)?.[1];
    if (type === undefined) throw new Unreadable('no event type');
    const sid = small(line, 'sid');
    const iova = this.#lookup?.addr;
    this.#lookup = null;
    const code = (EVENT as { readonly [name: string]: number })[type];
    if (code === undefined || iova === undefined)
      this.add({ t: 'note', raw: `${type} of stream 0x${sid.toString(16)}` });
    else this.add({ t: 'fault', sid, iova, write: false, type, code, recorded: true });
  }

  vtdLookup(line: string, tlb: 'hit' | 'miss'): void {
    const perm = PERMS[Number(BigInt(number(line, 'slpte')) & 3n)]!;
    const more = { tlb, perm, did: small(line, 'domain') };
    this.#vtdLookup = { sid: small(line, 'sid'), iova: BigInt(number(line, 'iova')), more };
  }

  vtdTranslated(line: string): void {
    const m = line.match(/dev (\w+):(\w+)\.(\w+) iova (0x\w+) -> gpa (0x\w+) mask (0x\w+)/);
    if (m === null) throw new Unreadable('no translation');
    const sid = (Number.parseInt(m[1]!, 16) << 8) | (Number.parseInt(m[2]!, 16) << 3) | Number.parseInt(m[3]!, 16);
    const [page, out, mask] = [BigInt(m[4]!), BigInt(m[5]!), BigInt(m[6]!)];
    const before = this.#vtdLookup;
    this.#vtdLookup = null;
    const known = before !== null && before.sid === sid && (before.iova & ~mask) === (page & ~mask);
    const iova = known ? before.iova : page;
    this.add({
      t: 'xlat',
      sid,
      iova: `0x${iova.toString(16)}`,
      out: `0x${((out & ~mask) | (iova & mask)).toString(16)}`,
      ...(known ? { ...before.more, pageSize: `0x${(mask + 1n).toString(16)}` } : { mode: 'pass-through' }),
    });
  }
}

type Handler = (log: QemuLog, line: string) => void;

/** Lines that become events. Every other line is counted as skipped. */
const HANDLERS: { readonly [name: string]: Handler } = {
  smmuv3_read_mmio: (log, line) => log.register('r', line, 'val', 'addr'),
  smmuv3_write_mmio: (log, line) => log.register('w', line, 'val', 'addr'),
  smmuv3_cmdq_opcode: (log, line) => log.add({ t: 'cmd', name: line.replace(/^.*<---\s*/, '').trim() }),
  smmuv3_cmdq_consume_error: (log, line) => log.add({ t: 'note', raw: line }),
  smmuv3_write_gerror: (log, line) => log.add({ t: 'note', raw: line }),
  smmuv3_trigger_irq: (log, line) => log.add({ t: 'irq', line: LINES[small(line, 'irq')] ?? 'gerror' }),
  smmuv3_translate_success: (log, line) => log.translated(line),
  smmuv3_translate_bypass: (log, line) => log.plain(line, 'bypass'),
  smmuv3_translate_disable: (log, line) => log.plain(line, 'disabled'),
  smmuv3_translate_abort: (log, line) =>
    log.add({
      t: 'fault',
      sid: small(line, 'sid'),
      iova: number(line, 'iova'),
      write: small(line, 'is_write') === 1,
      type: 'abort',
    }),
  smmuv3_record_event: (log, line) => log.smmuFault(line),
  smmuv3_propagate_event: (log, line) => log.smmuFault(line),
  smmu_iotlb_lookup_hit: (log, line) => log.lookup(line, { tlb: 'hit' }),
  smmu_iotlb_lookup_miss: (log, line) => log.lookup(line, {}),
  smmu_iotlb_insert: (log, line) => log.inserted(line),
  vtd_reg_write: (log, line) => log.register('w', line, 'value', 'addr'),
  vtd_reg_read: (log, line) => log.add({ t: 'note', raw: `read of register ${number(line, 'addr')}` }),
  vtd_inv_desc: (log, line) => log.add({ t: 'cmd', name: line.match(/desc type (\S+)/)?.[1] ?? 'descriptor' }),
  vtd_inv_desc_wait_sw: (log, line) => {
    const data = Buffer.alloc(WAIT_BYTES);
    data.writeUInt32LE(small(line, 'data'));
    log.add({ t: 'dst', gpa: number(line, 'addr'), data: data.toString('base64') });
  },
  vtd_iotlb_page_hit: (log, line) => log.vtdLookup(line, 'hit'),
  vtd_iotlb_page_update: (log, line) => log.vtdLookup(line, 'miss'),
  vtd_dmar_translate: (log, line) => log.vtdTranslated(line),
  vtd_dmar_fault: (log, line) =>
    log.add({
      t: 'fault',
      sid: small(line, 'sid'),
      iova: number(line, 'addr'),
      write: small(line, 'write') === 1,
      reason: small(line, 'fault'),
    }),
  vtd_frr_new: (log, line) =>
    log.add({ t: 'fault', frr: small(line, 'index'), hi: number(line, 'high'), lo: number(line, 'low') }),
  vtd_irq_generate: (log, line) => log.add({ t: 'irq', addr: number(line, 'addr'), data: number(line, 'data') }),
};

const UNKNOWN: { readonly [kind in IommuKind]: readonly string[] } = {
  smmuv3: [
    'guest memory: neither tables nor commands but by name',
    'whether a refused access was a write (told as a read), and its address where it met no lookup (told as a note)',
  ],
  vtd: ['guest memory: neither tables nor descriptors but by type', 'what register reads answered (told as notes)'],
};

/**
 * Reads what QEMU 9 to 11 write with `-trace "smmu*"` or `-trace "vtd_*"` (backend `log`, to standard error or `-D FILE`). Lines of
 * other subsystems are passed over.
 * @throws ViommuError `E_MISSING`, `E_TRACE_FORMAT` (no line of an IOMMU, lines of both, a line of another form than known).
 */
export async function importQemuLog(path: string): Promise<Imported> {
  const log = new QemuLog();
  let iommu: IommuKind | null = null;
  let n = 0;
  const wrong = (what: string) => new ViommuError('E_TRACE_FORMAT', 'trace', `${path}: ${what}`);
  for await (const raw of logLines(path)) {
    n++;
    const line = raw.replace(PREFIX, '');
    const name = line.match(EVENT_NAME)?.[1];
    if (name === undefined) continue;
    const kind = name.startsWith('vtd_') ? 'vtd' : 'smmuv3';
    if (iommu !== null && kind !== iommu)
      throw wrong(`line ${n}: it has events of both IOMMUs: import each machine's log`);
    iommu = kind;
    try {
      log.line(name, line);
    } catch (e) {
      if (!(e instanceof Unreadable)) throw e;
      throw wrong(
        `line ${n}: ${name} as QEMU 9 to 11 print it was expected, found "${line.slice(0, 120)}" (${e.message})`,
      );
    }
    checkCount(path, log.events.length);
  }
  if (iommu === null)
    throw wrong(
      'no line of an IOMMU: run QEMU with -trace "smmu*" or -trace "vtd_*" and give the file of -D, or its standard error',
    );
  return { iommu, events: log.events, skipped: log.skipped, unknown: UNKNOWN[iommu] };
}
