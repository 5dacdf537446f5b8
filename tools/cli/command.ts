import { ViommuError } from '../../src/core/errors.ts';

/** Where a command writes: results to `out`, progress and complaints to `err`, whole lines. */
export interface Io {
  out(line: string): void;
  err(line: string): void;
}

/** A verb of the `viommu` program, as the list of commands shows it. */
interface Listed {
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
}

/** One verb of the `viommu` program. */
export interface Command extends Listed {
  /** Printed for `--help` and after a usage error; starts with the command line. */
  readonly usage: string;
  /** @returns the exit status; 0 means that everything asked for holds. @throws ViommuError for bad input. */
  run(args: readonly string[], io: Io): Promise<number>;
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

/** parseArgs throws TypeErrors with codes of its own: these are the user's mistakes, not ours. */
function isUsage(e: unknown): e is Error {
  return e instanceof Error && 'code' in e && String(e.code).startsWith('ERR_PARSE_ARGS');
}

/**
 * Runs one command to its exit status. Whatever goes wrong becomes one line on `err`, never a stack trace and never
 * status 0.
 */
export async function runCommand(
  commands: readonly (Command | LaterCommand)[],
  argv: readonly string[],
  io: Io,
): Promise<number> {
  const [name, ...args] = argv;
  const list = ['usage: viommu COMMAND [ARGS]', '', ...commands.map((c) => `  ${c.name.padEnd(12)}${c.summary}`)];
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    for (const line of list) (name === undefined ? io.err : io.out)(line);
    return name === undefined ? EXIT.INPUT : EXIT.OK;
  }
  const found = commands.find((c) => c.name === name);
  if (found === undefined) {
    io.err(`viommu: unknown command "${name}"; the commands are ${commands.map((c) => c.name).join(', ')}`);
    return EXIT.INPUT;
  }
  const command = 'load' in found ? await found.load() : found;
  if (args.includes('--help') || args.includes('-h')) {
    io.out(command.usage);
    return EXIT.OK;
  }
  try {
    return await command.run(args, io);
  } catch (e) {
    if (isUsage(e) || (e instanceof ViommuError && e.code === 'E_USAGE')) {
      io.err(`viommu ${name}: ${e.message}`);
      io.err(command.usage.split('\n')[0] ?? '');
      return EXIT.INPUT;
    }
    if (e instanceof ViommuError) {
      io.err(`viommu ${name}: ${e.message}`);
      return EXIT.INPUT;
    }
    io.err(`viommu ${name}: internal error (please report it): ${e instanceof Error ? e.message : String(e)}`);
    return EXIT.BUG;
  }
}
