import { EVENT_BYTES, EVENT_NAMES } from '../../src/spec/smmuv3/events.ts';

/** Where things are in the recorded machine, guest-physical bytes. */
export interface RecordedMachine {
  readonly smmu: number;
  readonly smmuBytes: number;
}

type Event = Record<string, unknown>;

const hex = (value: bigint | number) => `0x${value.toString(16)}`;
const PAGE = 4096n;
const IRQ_LINES = ['evtq', 'priq', 'cmd_sync', 'gerror'] as const;
const DEVICE = /^smmuv3-iommu-memory-region-(\d+)-\d+$/;

/**
 * Turns QEMU's log (accesses of the vCPU from the plugin beside this file, trace events of the SMMU) into viommu-trace
 * events. QEMU prints what an access caused before the plugin prints the access; here causes come first.
 */
export class Conversion {
  readonly events: Event[] = [];
  readonly commands: Record<string, number> = {};
  readonly #machine: RecordedMachine;
  readonly #pages = new Set<bigint>();
  /** Effects of the access that is not printed yet. */
  #effects: Event[] = [];
  /** Words the guest loaded of the record it is reading. */
  #record: { base: bigint; words: bigint[] } | null = null;
  #evtq: { base: bigint; bytes: bigint } = { base: 0n, bytes: 0n };
  #insert: { asid: number; shift: number } | null = null;
  #hit = false;

  constructor(machine: RecordedMachine) {
    this.#machine = machine;
  }

  #add(e: Event): void {
    this.events.push({ i: this.events.length, ...e });
  }

  line(text: string): void {
    const access = /^#([SLWR]) (0x[0-9a-f]+) (\d+) (0x[0-9a-f]+)$/.exec(text);
    if (access === null) this.#traced(text);
    else this.#access(access[1]!, BigInt(access[2]!), Number(access[3]), BigInt(access[4]!));
  }

  #access(what: string, at: bigint, size: number, value: bigint): void {
    if (what === 'S') this.#store(at, size, value);
    else if (what === 'L') this.#load(at, value);
    else {
      const off = Number(at) - this.#machine.smmu;
      if (off >= 0 && off < this.#machine.smmuBytes) {
        this.#add({ t: what.toLowerCase(), off: hex(off), size, val: hex(value) });
        if (what === 'W' && off === 0xa0) {
          this.#evtq = { base: value & 0xf_ffff_ffff_ffe0n, bytes: BigInt(EVENT_BYTES) << (value & 31n) };
        }
      }
      for (const e of this.#effects) this.#add(e);
      this.#effects = [];
    }
  }

  #store(at: bigint, size: number, value: bigint): void {
    const page = at - (at % PAGE);
    if (!this.#pages.has(page)) {
      this.#pages.add(page);
      this.#add({ t: 'page', gpa: hex(page), kind: 'pt', zero: true });
    }
    this.#add({ t: 'st', gpa: hex(at), size, val: hex(value) });
  }

  /** A guest that reads a record of the event queue shows what the SMMU wrote there. */
  #load(at: bigint, value: bigint): void {
    const { base, bytes } = this.#evtq;
    if (at < base || at >= base + bytes) return;
    const record = at - (at % BigInt(EVENT_BYTES));
    if (this.#record?.base !== record || at === record) this.#record = { base: record, words: [] };
    this.#record.words.push(value);
    if (this.#record.words.length < EVENT_BYTES / 8) return;
    const data = Buffer.alloc(EVENT_BYTES);
    this.#record.words.forEach((w, i) => void data.writeBigUInt64LE(w, 8 * i));
    this.#record = null;
    this.#add({ t: 'dst', gpa: hex(record), data: data.toString('base64') });
  }

  #traced(text: string): void {
    const [name, ...rest] = text.split(' ');
    const value = (key: string) => new RegExp(`(?:^| )${key}[=:](\\S+)`).exec(text)?.[1] ?? '';
    switch (name) {
      case 'smmuv3_cmdq_opcode':
        this.commands[rest.at(-1)!] = (this.commands[rest.at(-1)!] ?? 0) + 1;
        return;
      case 'smmuv3_trigger_irq':
        this.#effects.push({ t: 'irq', line: IRQ_LINES[Number(value('irq'))] ?? value('irq') });
        if (value('irq') === '0' && this.#open !== null) this.#open.recorded = true;
        this.#open = null;
        return;
      case 'smmu_iotlb_lookup_hit':
        this.#hit = true;
        return;
      case 'smmu_iotlb_lookup_miss':
        this.#hit = false;
        return;
      case 'smmu_iotlb_insert': {
        const granule = 10 + 2 * Number(value('tg'));
        const shift = granule + (granule - 3) * (3 - Number(value('level')));
        this.#insert = { asid: Number(value('asid')), shift };
        return;
      }
      case 'smmuv3_translate_success':
        this.#translated(
          value('sid'),
          value('iova'),
          value('translated'),
          Number(value('perm')),
          Number(value('stage')),
        );
        return;
      case 'smmuv3_translate_bypass':
      case 'smmuv3_translate_disable': {
        const iova = value('iova');
        const mode = name === 'smmuv3_translate_bypass' ? 'bypass' : 'disabled';
        this.#effects.push({ t: 'xlat', sid: Number(value('sid')), iova, perm: 'w', out: iova, mode });
        return;
      }
      case 'smmuv3_translate_abort':
        this.#fault(Number(value('sid')), value('iova'), 'abort', null);
        return;
    }
    const failed = DEVICE.exec(name ?? '');
    if (failed !== null && text.includes('translation failed')) this.#failed(Number(failed[1]), text);
  }

  #translated(sid: string, iova: string, out: string, perm: number, stage: number): void {
    const e: Event = { t: 'xlat', sid: Number(sid), iova, perm: ['', 'r', 'w', 'rw'][perm & 3]!, out, stage };
    e.tlb = this.#hit ? 'hit' : 'miss';
    if (!this.#hit && this.#insert !== null) {
      e.pageSize = hex(1n << BigInt(this.#insert.shift));
      e.asid = this.#insert.asid;
    }
    this.#insert = null;
    this.#effects.push(e);
  }

  #failed(sid: number, text: string): void {
    const event = /SMMU_EVT_(\w+)/.exec(text)?.[1] ?? null;
    this.#fault(sid, /iova=(\S+)/.exec(text)![1]!, event ?? 'abort', event);
  }

  #fault(sid: number, iova: string, type: string, event: string | null): void {
    const code = [...EVENT_NAMES].find(([, n]) => n === event)?.[0];
    const e: Event = {
      t: 'fault',
      sid,
      type,
      ...(code === undefined ? {} : { code }),
      iova,
      write: true,
      recorded: false,
    };
    this.#effects.push(e);
    this.#open = code === undefined ? null : e;
  }

  /** The last fault: it was recorded when the event queue's interrupt follows. */
  #open: Event | null = null;
}
