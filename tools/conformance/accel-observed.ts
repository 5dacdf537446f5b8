import { Smmuv3DriverCommands } from '../../src/host/drivers/smmuv3/commands.ts';
import { VtdDriverCommands } from '../../src/host/drivers/vtd/commands.ts';
import type { Said, Tell } from '../../src/ports/tell.ts';

/** Whose operations are watched now: both sides run in this process, one at a time. */
let listening: HostOperations | null = null;

/** Words of an invalidation as they are compared. */
function entries(words: Int32Array, start: number, count: number, size: number): string[] {
  return Array.from({ length: count }, (_, i) =>
    Array.from(words.subarray(start + i * size, start + (i + 1) * size), (w) => (w >>> 0).toString(16)).join(' '),
  );
}

for (const [commands, size] of [
  [Smmuv3DriverCommands, 4],
  [VtdDriverCommands, 6],
] as const) {
  const { run } = commands.prototype;
  commands.prototype.run = function (this: never, words: Int32Array, start: number, count: number) {
    listening?.invalidations.push(...entries(words, start, count, size));
    return run.call(this, words, start, count);
  };
}

/** What a side asks of its host: what the function is attached to, and the invalidations, content included. */
export class HostOperations {
  readonly invalidations: string[] = [];
  /** By HWPT: what it is. */
  readonly #hwpts = new Map<number, string>();
  #attached = 'nothing';
  #allocations = 0;
  readonly log: string[] = [];

  /** The operations that follow are this side's. */
  listen(): void {
    listening = this;
  }

  readonly tell: Tell = (said: Said) => {
    if (said.what !== 'host') return;
    const { verb, args, result } = said;
    this.log.push(
      `${verb} ${Object.entries(args)
        .map(([k, v]) => `${k}=${String(v)}`)
        .join(' ')} -> ${String(result)}`,
    );
    if (result !== 0) return;
    if (verb === 'HWPT_ALLOC') {
      const nested = Number(args.type ?? 0) !== 0;
      this.#hwpts.set(Number(args.hwpt), nested ? nestedName(String(args.data)) : 'parent');
      if (nested) this.#allocations++;
    } else if (verb === 'ATTACH' || verb === 'REPLACE') this.#attached = this.#hwpts.get(Number(args.pt)) ?? 'parent';
    else if (verb === 'DETACH') this.#attached = 'nothing';
  };

  /** What the function is attached to now. */
  get attached(): string {
    return this.#attached;
  }
  /** Nested HWPTs made so far. */
  get allocations(): number {
    return this.#allocations;
  }

  /** The invalidations since it was asked last. */
  take(): readonly string[] {
    return this.invalidations.splice(0);
  }
}

/** An entry's configuration in words: to bypass or to abort needs no tables. */
function nestedName(data: string): string {
  return `nested ${data}`;
}
