import type { IommuKind } from '../../../src/trace/index.ts';
import { Collector, type LoggedEvent } from './collector.ts';
import { hex, Unreadable } from './lines.ts';
import { Smmuv3Lines, smmuv3Access } from './smmuv3-lines.ts';
import { VtdLines, vtdWrite } from './vtd-lines.ts';

/** What QEMU's log puts before an event's name in some versions. */
const PREFIX = /^(?:\d+@\d+\.\d+:)?\s*/;
const EVENT = /^((?:smmuv3|smmu|vtd)_\w+)(?:\s|$)/;

/** What a recording does not have, by what it is. */
export interface Lost {
  /** Register accesses of code that was not watched: writes are told by QEMU itself, what reads answered is not known. */
  readonly unwatchedWrites: number;
  readonly unwatchedReads: number;
  /** Stores (of 8 bytes) that were seen only when memory was compared: their order among others is not known. */
  readonly compared: number;
  /** SMMUv3 records without a fault, and faults without a record. */
  readonly unpaired: number;
  /** Lines of a form that is not known, and the first of them. */
  readonly unreadable: number;
  readonly firstUnreadable: string | null;
}

/** Turns the log of a QEMU with the recorder plugin into the events of a recording. */
export class QemuConversion {
  readonly commands = new Map<string, number>();
  /** Streams that did something. */
  readonly streams = new Set<number>();
  readonly #iommu: IommuKind;
  readonly #to: Collector;
  readonly #lines: Smmuv3Lines | VtdLines;
  readonly #out: (e: LoggedEvent) => void;
  #kind = 'pt';
  #started = false;
  /** A register access that QEMU has told and the plugin has not. */
  #told: LoggedEvent | null = null;
  #ended = false;
  #lost = { unwatchedWrites: 0, unwatchedReads: 0, compared: 0, unreadable: 0, firstUnreadable: null as string | null };

  constructor(iommu: IommuKind, out: (e: LoggedEvent) => void) {
    this.#iommu = iommu;
    this.#out = (e) => {
      if (typeof e.sid === 'number') this.streams.add(e.sid);
      out(e);
    };
    this.#to = new Collector(this.#out);
    const count = (name: string): void => void this.commands.set(name, (this.commands.get(name) ?? 0) + 1);
    this.#lines = iommu === 'smmuv3' ? new Smmuv3Lines(this.#to, count) : new VtdLines(this.#to, count);
  }

  /** The plugin told of its end: QEMU ended in order. */
  get ended(): boolean {
    return this.#ended;
  }

  get lost(): Lost {
    return { ...this.#lost, unpaired: this.#to.unpaired };
  }

  line(text: string): void {
    if (text.startsWith('@')) {
      this.#plugin(text);
      return;
    }
    const line = text.replace(PREFIX, '');
    const name = EVENT.exec(line)?.[1];
    if (name === undefined) return;
    try {
      this.#traced(name, line);
    } catch (e) {
      if (!(e instanceof Unreadable)) throw e;
      this.#lost.unreadable++;
      this.#lost.firstUnreadable ??= line.slice(0, 120);
    }
  }

  #traced(name: string, line: string): void {
    if (name === 'smmuv3_write_mmio' || name === 'smmuv3_read_mmio') {
      const t = name === 'smmuv3_write_mmio' ? 'w' : 'r';
      this.#unwatched();
      this.#told = smmuv3Access(t, line);
      this.#to.hold();
    } else if (name === 'vtd_reg_write' || name === 'vtd_reg_read') {
      this.#unwatched();
      this.#told = name === 'vtd_reg_write' ? vtdWrite(line) : { t: 'r' };
      this.#to.hold();
    } else if (name === 'smmu_reset_exit' || name === 'vtd_reset_exit') {
      this.#unwatched();
      this.#to.flush();
      if (this.#started) this.#to.now({ t: 'reset' });
    } else this.#lines.line(name, line, this.#started);
  }

  /** The plugin has not told of the last access: its code was not watched. QEMU's own line has what was written. */
  #unwatched(): void {
    const told = this.#told;
    this.#told = null;
    if (told === null) return;
    if (told.t === 'w') this.#lost.unwatchedWrites++;
    else this.#lost.unwatchedReads++;
    if ('off' in told) {
      this.#started = true;
      this.#to.access(told);
    }
  }

  #plugin(text: string): void {
    const [what, a = '', b = '', c = ''] = text.split(' ');
    switch (what) {
      case '@K':
        this.#kind = a;
        return;
      case '@P':
        this.#to.now({ t: 'page', gpa: a, kind: this.#kind, data: Buffer.from(b, 'hex').toString('base64') });
        return;
      case '@Z':
        this.#to.now({ t: 'page', gpa: a, kind: b, zero: true });
        return;
      case '@S':
      case '@D':
        this.#stores(BigInt(a), Buffer.from(b, 'hex'), what === '@D');
        return;
      case '@X':
        this.#to.now({ t: 'drop', gpa: a });
        return;
      case '@E':
        this.#to.record(a, Buffer.from(b, 'hex'));
        return;
      case '@R':
      case '@W':
        this.#told = null;
        this.#started = true;
        this.#to.access({ t: what === '@R' ? 'r' : 'w', off: a, size: Number(b), val: c });
        return;
      case '@Q':
        this.#ended = true;
        return;
    }
  }

  /** Stores have 1, 2, 4 or 8 bytes. */
  #stores(gpa: bigint, bytes: Buffer, compared: boolean): void {
    for (let n = 0; n < bytes.length; ) {
      const left = bytes.length - n;
      const size = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
      const val = hex(
        BigInt(
          `0x${Buffer.from(bytes.subarray(n, n + size))
            .reverse()
            .toString('hex')}`,
        ),
      );
      this.#to.now({ t: 'st', gpa: hex(gpa + BigInt(n)), size, val, ...(compared ? { src: 'diff' } : {}) });
      n += size;
    }
    if (compared) this.#lost.compared++;
  }

  /** The log has no more lines. */
  end(): void {
    this.#told = null;
    this.#to.end();
  }

  get iommu(): IommuKind {
    return this.#iommu;
  }
}
