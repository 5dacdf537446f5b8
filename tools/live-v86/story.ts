import { hex } from '../../src/core/errors.ts';
import type { Said } from '../../src/ports/tell.ts';
import { PAGE } from '../../src/spec/vtd/registers.ts';

/** One line of the story: what the guest did and how often, and what the host did for it. */
export interface Step {
  /** Commands that needed nothing of the host share a line; one that did has its own. */
  readonly guest: Map<string, number>;
  readonly host: readonly string[];
}

/** A step in words. */
export function wordsOf(step: Step): string {
  return [...step.guest].map(([name, n]) => (n === 1 ? name : `${name} × ${n}`)).join(', ');
}

/** What a host operation was about, in short. */
function shortly(said: Extract<Said, { what: 'host' }>): string {
  const interesting = Object.entries(said.args).filter(
    ([k, v]) => k !== 'userVa' && k !== 'flags' && v !== 0 && v !== '',
  );
  const args = interesting.slice(0, 4).map(([k, v]) => `${k}=${typeof v === 'string' ? v : hex(v)}`);
  return `${said.verb}(${args.join(' ')})${said.result === 0 ? '' : ` = ${said.result}`}`;
}

/**
 * Turns what a machine tells into lines: each command of the guest with the host operations it caused, and what the host
 * did because DMA came to a place it had not seen.
 */
export class Story {
  readonly steps: Step[] = [];
  /** Steps so far, kept or not. */
  count = 0;
  /** Hears of a step that will not change any more. */
  onStep: ((step: Step) => void) | null = null;
  readonly #most: number;
  #host: string[] = [];

  /** @param most how many steps are kept. */
  constructor(most = 400) {
    this.#most = most;
  }

  tell(said: Said): void {
    switch (said.what) {
      case 'host':
        this.#host.push(shortly(said));
        return;
      case 'command':
        // The operations of a command are told before the command is.
        this.#add(said.error === 0 ? said.name : `${said.name} (error ${said.error})`);
        return;
      case 'frcd':
        this.#add('fault recorded');
        return;
      case 'reg.write':
        this.settle();
        // A switch: translation on or off, a new root.
        if (said.offset === PAGE.GCMD.at) this.#add(`GCMD ${hex(said.value)}`);
        return;
    }
  }

  #add(guest: string): void {
    const host = this.#host;
    this.#host = [];
    const last = this.steps.at(-1);
    if (last !== undefined && last.host.length === 0 && host.length === 0) {
      last.guest.set(guest, (last.guest.get(guest) ?? 0) + 1);
      return;
    }
    if (last !== undefined) this.onStep?.(last);
    this.steps.push({ guest: new Map([[guest, 1]]), host });
    this.count++;
    if (this.steps.length > this.#most) this.steps.shift();
  }

  /** Operations told since the last command: no command asked for them, a DMA's first use of something did. */
  settle(): void {
    if (this.#host.length > 0) this.#add('first use');
  }
}
