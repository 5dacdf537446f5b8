import { ViommuError } from '../../src/core/errors.ts';
import type { Io } from './session.ts';
import { type Command, EXIT, type LaterCommand, type Listed } from './verb.ts';

export type { Io, Session } from './session.ts';
export { type Command, EXIT, type LaterCommand, usageError } from './verb.ts';

const USAGE = 'usage: viommu COMMAND [OPTIONS] [ARGUMENTS]';
const GLOBAL = `Options of every command:
  --json         results as JSON, one object a line
  --quiet        no lines about what was done: results and complaints only
  --color WHEN   auto (default: on a terminal, unless NO_COLOR is set), always or never
  --help         what a command does, its options, an example
  --version      which viommu this is

  viommu help COMMAND explains one; viommu completion bash|zsh|fish makes a shell complete all of this`;

/** What `viommu help` says. The parser is not loaded for it: half of the time would go there. */
function list(commands: readonly Listed[]): string[] {
  return [USAGE, '', ...commands.map((c) => `  ${c.name.padEnd(12)}${c.summary}`), '', ...GLOBAL.split('\n')];
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
  const [name, ...rest] = argv;
  const help = name === 'help' || name === '--help' || name === '-h';
  if (name === undefined || (help && rest.length === 0)) {
    for (const line of list(commands)) (name === undefined ? io.err : io.out)(line);
    return name === undefined ? EXIT.INPUT : EXIT.OK;
  }
  const { parse } = await import('./parser.ts');
  const parsed = await parse(commands, name === 'help' ? [...rest, '--help'] : argv, io);
  if (typeof parsed === 'number') return parsed;
  const { command, args, values, session } = parsed;
  try {
    return await command.run(args, values, session);
  } catch (e) {
    if (e instanceof ViommuError) {
      session.err(`viommu ${command.name}: ${e.message}`);
      if (e.code === 'E_USAGE') session.err(parsed.usage);
      return EXIT.INPUT;
    }
    session.err(
      `viommu ${command.name}: internal error (please report it): ${e instanceof Error ? e.message : String(e)}`,
    );
    return EXIT.BUG;
  }
}
