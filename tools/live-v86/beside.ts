import type { Tell } from '../../src/ports/tell.ts';
import type { V86Run } from './start.ts';
import { Story, wordsOf } from './story.ts';

const LEFT = 84;
const RIGHT = 110;
/** Lines that are looked back at for repetitions. */
const REPEATS = 4;

/** How a program watches the guests it starts. */
export interface Watch {
  /** Hears what the machine tells, beside whoever counts it. */
  tell(counting: Tell): Tell;
  /** A guest has started. */
  run(run: V86Run): V86Run;
}

/** Cut to a width, so that columns stay columns. */
function cut(text: string, width: number): string {
  return text.length <= width ? text : `${text.slice(0, width - 1)}…`;
}

/**
 * Prints the guest's console on the left and, as it happens, what the guest asks of the IOMMU and what the host does for it
 * on the right.
 */
export class Beside implements Watch {
  readonly #print: (line: string) => void;

  constructor(print: (line: string) => void = (line) => void process.stdout.write(`${line}\n`)) {
    this.#print = print;
  }

  tell(counting: Tell): Tell {
    const story = new Story(2);
    const right = (text: string) => this.#print(`${''.padEnd(LEFT)} ┃ ${cut(text, RIGHT)}`);
    let recent: string[] = [];
    let again = 0;
    story.onStep = (step) => {
      const host = step.host.length === 0 ? '' : ` → ${step.host.join(' ')}`;
      const text = `${wordsOf(step)}${host}`;
      // A driver at work repeats itself.
      if (recent.includes(text)) {
        again++;
        return;
      }
      if (again > 0) right(`… ${again} more like these`);
      again = 0;
      recent = [...recent.slice(1 - REPEATS), text];
      right(text);
    };
    return (said) => {
      counting(said);
      story.tell(said);
    };
  }

  run(run: V86Run): V86Run {
    run.guest.console.onLine = (line) => this.#print(`${cut(line, LEFT).padEnd(LEFT)} ┃`);
    return run;
  }
}

/** Watches nothing. */
export const UNWATCHED: Watch = { tell: (counting) => counting, run: (run) => run };
