import type { Said, Tell } from '../ports/tell.ts';

/** An interrupt the machine raised, as it is compared: a line's name, or an MSI's address and data. */
export interface HeardIrq {
  /** Name of the line, or address and data of the message (`msiName`). */
  readonly name: string;
  /** Number of the event that was being replayed. */
  readonly i: number;
}

/** Bytes the IOMMU wrote to guest memory. */
export interface HeardRecord {
  /** Where the guest finds it (bytes). */
  readonly gpa: number;
  /** Its words. */
  readonly words: readonly number[];
  /** Number of the event that was being replayed. */
  readonly i: number;
}

export function msiName(address: number, data: number): string {
  return `message 0x${address.toString(16)} = 0x${(data >>> 0).toString(16)}`;
}

/** Listens to a machine while a recording is replayed on it: counts, and keeps what is still to be compared. */
export class Heard {
  /** Commands executed so far, by name. */
  readonly commands = new Map<string, number>();
  /** Host verbs called so far, by name. */
  readonly hostOps = new Map<string, number>();
  /** Raised and not yet matched, oldest first. */
  irqs: HeardIrq[] = [];
  /** Written and not yet matched, oldest first. */
  records: HeardRecord[] = [];
  /** SMMUv3 event number or VT-d fault reason of the last fault; -1: none since the replay looked. */
  reason = -1;
  /** Number of the event at hand; the replay keeps it. */
  i = 0;
  /** Hears everything as well (stories, exports). */
  also: Tell | null = null;

  /** Goes into the machine as its `tell` hook. */
  readonly tell: Tell = (said: Said) => {
    switch (said.what) {
      case 'command':
        this.commands.set(said.name, (this.commands.get(said.name) ?? 0) + 1);
        break;
      case 'host':
        this.hostOps.set(said.verb, (this.hostOps.get(said.verb) ?? 0) + 1);
        break;
      case 'irq':
        // What becomes of a device's message is the answer of the request, not an event of its own.
        if (said.line === 'remap') break;
        this.irqs.push({
          name: said.address === undefined ? said.line : msiName(said.address, said.data ?? 0),
          i: this.i,
        });
        break;
      case 'frcd':
        this.reason = said.words[3]! & 0xff;
        break;
      case 'record':
        if (said.words.length === 8) this.reason = said.words[0]! & 0xff;
        this.records.push({ gpa: said.address, words: said.words, i: this.i });
        break;
    }
    if (this.also !== null) this.also(said);
  };
}
