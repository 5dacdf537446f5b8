import type { Command as Parser } from 'commander';
import { ViommuError } from '../../src/core/errors.ts';
import type { Session } from './session.ts';

/** A verb of the `viommu` program, as the list of commands shows it. */
export interface Listed {
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
}

/** One verb of the `viommu` program. */
export interface Command extends Listed {
  /** What it does, in sentences: `--help` shows it before the options. */
  readonly about: string;
  /** Further sentences, after the options: what the exit statuses mean. */
  readonly notes?: string;
  /** Command lines that work, for `--help`. */
  readonly examples: readonly string[];
  /** What one writes to run it, when it is no verb of `viommu`. */
  readonly invoked?: string;
  /** Says which arguments and options it has. */
  declare(parser: Parser): void;
  /**
   * @param args what is no option, as many as were declared. @param values the options by their name in camel case.
   * @returns the exit status; 0 means that everything asked for holds. @throws ViommuError for bad input.
   */
  run(args: readonly string[], values: object, io: Session): Promise<number>;
}

/** A verb whose program is loaded when somebody uses it: the list of commands needs none of them. */
export interface LaterCommand extends Listed {
  load(): Promise<Command>;
}

/** Exit statuses: a difference was found; the input could not be used; this program is wrong. */
export const EXIT = { OK: 0, DIFFERS: 1, INPUT: 2, BUG: 3 } as const;

export function usageError(what: string): ViommuError {
  return new ViommuError('E_USAGE', 'caller', what);
}
