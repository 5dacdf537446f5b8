import type { Said } from '../../src/ports/tell.ts';

type HostSaid = Extract<Said, { what: 'host' }>;

/** The host operations of a run, counted, and the last ones as they were. */
export class HostObjects {
  #counts = new Map<string, number>();
  #last: HostSaid[] = [];

  readonly tell = (said: Said): void => {
    if (said.what !== 'host') return;
    this.#counts.set(said.verb, (this.#counts.get(said.verb) ?? 0) + 1);
    this.#last.push(said);
    if (this.#last.length > 16) this.#last.shift();
  };

  lines(): string[] {
    const lines = ['Host operations so far'];
    for (const [verb, count] of [...this.#counts].toSorted()) lines.push(`  ${verb.padEnd(24)} ${count}`);
    return lines;
  }
}
