import type { Said } from '../../src/ports/tell.ts';
import type { TraceEvent } from '../../src/trace/index.ts';

/** Something the guest did, and what it caused, in the order it happened. */
interface Chapter {
  readonly what: string;
  /** The stream it names; -1: none. */
  readonly stream: number;
  readonly caused: string[];
}

const NAMES_STREAM = /CFGI_STE$|CFGI_CD$|CFGI_CD_ALL$|ATC_INV$/;
/** Ids and small numbers read better in decimal. */
const SMALL = 1000;

function value(v: number | bigint | string): string {
  if (typeof v === 'string') return v;
  return v < SMALL ? String(v) : `0x${v.toString(16)}`;
}

function hostText(said: Extract<Said, { what: 'host' }>): string {
  const args = Object.entries(said.args).map(([k, v]) => `${k} ${value(v)}`);
  return `host: ${said.verb} (${args.join(', ')})${said.result === 0 ? '' : ` = ${said.result}`}`;
}

function words(list: readonly number[]): string {
  return list.map((w) => (w >>> 0).toString(16).padStart(8, '0')).join(' ');
}

/**
 * Listens to a replay and keeps what each guest command, register write and DMA made the host do. Commands travel to the
 * host in batches: what a batch causes stands with its last command.
 */
export class Story {
  readonly #chapters: Chapter[] = [];
  #open: Chapter = { what: 'the machine is built', stream: -1, caused: [] };

  constructor() {
    this.#chapters.push(this.#open);
  }

  /** To be told of every event before it is replayed. */
  readonly event = (e: TraceEvent): void => {
    if (e.t === 'xlat' || e.t === 'fault') this.#begin(`DMA by stream 0x${e.sid.toString(16)}`, e.sid);
    else if (e.t === 'w') this.#begin(`register 0x${e.off.toString(16)} is written`, -1);
  };

  readonly tell = (said: Said): void => {
    if (said.what === 'command') this.#begin(said.name, NAMES_STREAM.test(said.name) ? (said.words[1] ?? 0) : -1);
    else if (said.what === 'host') this.#open.caused.push(hostText(said));
    else if (said.what === 'hw.command') this.#open.caused.push(`${said.iommu} executes ${words(said.words)}`);
  };

  #begin(what: string, stream: number): void {
    this.#open = { what, stream, caused: [] };
    this.#chapters.push(this.#open);
  }

  /**
   * The life of one stream: what named it, and whatever else had an effect the first time it happened.
   * @param limit lines at most.
   */
  lines(sid: number, limit: number): string[] {
    const lines: string[] = [];
    const known = new Set<string>();
    for (const c of this.#chapters) {
      if (c.stream >= 0 && c.stream !== sid) continue;
      if (c.caused.length === 0 || known.has(c.what)) continue;
      known.add(c.what);
      const stream = c.stream < 0 || c.what.startsWith('DMA') ? '' : ` for stream 0x${c.stream.toString(16)}`;
      lines.push(`  ${c.what}${stream}`);
      for (const what of c.caused) lines.push(`      ${what}`);
      if (lines.length >= limit) return [...lines.slice(0, limit), '  …'];
    }
    return lines;
  }
}
