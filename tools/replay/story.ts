import type { Said } from '../../src/ports/tell.ts';

/** One guest command and what it caused, in the order it happened. */
interface Chapter {
  readonly command: string;
  readonly stream: number;
  readonly caused: string[];
  /** How often exactly this happened. */
  times: number;
}

const SID_COMMANDS = /CFGI_STE$|CFGI_CD$|CFGI_CD_ALL$|ATC_INV$/;

function value(v: number | bigint | string): string {
  if (typeof v === 'string') return v;
  return v < 10 ? String(v) : `0x${v.toString(16)}`;
}

function hostText(said: Extract<Said, { what: 'host' }>): string {
  const args = Object.entries(said.args).map(([k, v]) => `${k}=${value(v)}`);
  return `host ${said.verb}(${args.join(', ')})${said.result === 0 ? '' : ` = ${said.result}`}`;
}

/**
 * Listens to a replay and keeps what the guest's commands made the host do: a host operation belongs to the guest
 * command during which it happened.
 */
export class Story {
  #chapters: Chapter[] = [];
  #caused: string[] = [];
  #firstUse = new Map<number, string[]>();

  readonly tell = (said: Said): void => {
    switch (said.what) {
      case 'host':
        this.#caused.push(hostText(said));
        return;
      case 'hw.command':
        this.#caused.push(
          `${said.iommu} queue: ${said.words.map((w) => (w >>> 0).toString(16).padStart(8, '0')).join(' ')}`,
        );
        return;
      case 'translate':
        if (!this.#firstUse.has(said.rid)) this.#firstUse.set(said.rid, this.#caused.splice(0));
        return;
      case 'command':
        this.#command(said.name, said.words);
        return;
    }
  };

  #command(name: string, words: readonly number[]): void {
    const stream = SID_COMMANDS.test(name) ? (words[1] ?? 0) : -1;
    const caused = this.#caused.splice(0);
    const last = this.#chapters.at(-1);
    if (last?.command === name && last.stream === stream && last.caused.join() === caused.join()) last.times++;
    else this.#chapters.push({ command: name, stream, caused, times: 1 });
  }

  /** The commands for one stream, and the first of each kind that is not about a stream. */
  lines(sid: number, limit: number): string[] {
    const lines: string[] = [];
    const kinds = new Set<string>();
    for (const c of this.#chapters) {
      if (c.stream >= 0 ? c.stream !== sid : c.caused.length === 0 || kinds.has(c.command)) continue;
      kinds.add(c.command);
      lines.push(
        `  ${c.command}${c.stream < 0 ? '' : ` stream 0x${c.stream.toString(16)}`}${c.times > 1 ? ` (${c.times} times)` : ''}`,
      );
      for (const what of c.caused) lines.push(`      ${what}`);
      if (lines.length >= limit) break;
    }
    return lines;
  }
}
