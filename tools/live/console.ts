import { ViommuError } from '../../src/core/errors.ts';

/** A guest's serial console as lines that can be waited for. */
export class Console {
  /** Everything it said. */
  readonly lines: string[] = [];
  /** Hears every line. */
  onLine: ((line: string) => void) | null = null;
  #rest = '';
  #seen = 0;
  #wake: (() => void) | null = null;
  #ended: string | null = null;

  feed(text: string): void {
    this.#rest += text;
    const parts = this.#rest.split(/\r*\n/);
    this.#rest = parts.pop() ?? '';
    for (const line of parts) {
      this.lines.push(line);
      this.onLine?.(line);
    }
    if (parts.length > 0) this.#wake?.();
  }

  /** The machine is gone: nothing more will be said. */
  end(why: string): void {
    this.#ended ??= why;
    this.#wake?.();
  }

  get ended(): boolean {
    return this.#ended !== null;
  }

  /**
   * Waits for a line that was not waited for before.
   * @throws ViommuError `EIO` when it does not come in time, or the machine ends first; the last lines are in the message.
   */
  async expect(pattern: RegExp, milliseconds = 30_000): Promise<string> {
    const end = Date.now() + milliseconds;
    for (;;) {
      while (this.#seen < this.lines.length) {
        const line = this.lines[this.#seen++]!;
        if (pattern.test(line)) return line;
      }
      const left = end - Date.now();
      if (this.#ended !== null || left <= 0) {
        const why = this.#ended === null ? `nothing in ${milliseconds} ms` : `the machine ended (${this.#ended})`;
        const last = this.lines.slice(-12).join('\n');
        throw new ViommuError('EIO', 'guest', `waited for ${pattern}: ${why}; last lines:\n${last}`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.min(left, 1000));
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.#wake = null;
    }
  }
}

/** A live guest: its console, and a way to type. */
export interface Guest {
  readonly console: Console;
  send(command: string): void;
}

/** Sends a command of the guest's init and waits for its answer. */
export function ask(guest: Guest, command: string, answer: RegExp, milliseconds?: number): Promise<string> {
  guest.send(command);
  return guest.console.expect(answer, milliseconds);
}
