import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type CommanderError, InvalidArgumentError, Option, Command as Parser } from 'commander';
import { ViommuError } from '../../src/core/errors.ts';
import { packageFolder } from '../package-folder.ts';
import { type Common, colored, type Io, type Session, session } from './session.ts';
import { type Command, EXIT, type LaterCommand, usageError } from './verb.ts';

/** A command line that can be run. */
export interface Parsed {
  readonly command: Command;
  readonly args: readonly string[];
  readonly values: object;
  readonly session: Session;
  /** Its own line of usage. */
  readonly usage: string;
}

/** An option whose value is one of a few words. */
export function oneOf(flags: string, text: string, words: readonly string[]): Option {
  const name = /--[a-z-]+/.exec(flags)?.[0];
  return new Option(flags, text).choices(words).argParser((found: string) => {
    if (words.includes(found)) return found;
    const expected = words.length === 1 ? words[0] : `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`;
    throw usageError(`${name}: expected ${expected}, found "${found}"`);
  });
}

/** A parser of numbers from `lowest` on. @param whole whether fractions are refused. */
export function atLeast(lowest: number, whole = true): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== '' && value >= lowest && (whole ? Number.isSafeInteger(value) : Number.isFinite(value)))
      return value;
    throw new InvalidArgumentError(`Expected a ${whole ? 'whole ' : ''}number from ${lowest} on.`);
  };
}

/** Adds the value of an option that can be given several times. */
export function several(value: string, before: readonly string[] | undefined): readonly string[] {
  return [...(before ?? []), value];
}

/** Columns of help, where the terminal has them. */
const WIDTH = 120;

/** Declares the options that every verb has. */
export function common(root: Parser): void {
  root
    .option('--json', 'results as JSON, one object a line')
    .option('--quiet', 'no lines about what was done: results and complaints only')
    .addOption(
      oneOf('--color <when>', 'colours: auto (default: on a terminal, unless NO_COLOR is set), always or never', [
        'auto',
        'always',
        'never',
      ]),
    );
}

/** Declares a verb on its parser: what `--help` shows, what can be given. */
export function declare(parser: Parser, command: Command): void {
  parser.description(paragraphs(command.about));
  const lines = [...(command.notes === undefined ? [] : ['', command.notes]), '', 'Example:'];
  parser.addHelpText('after', [...lines, ...command.examples.map((e) => `  ${e}`)].join('\n'));
  command.declare(parser);
}

/** Lines that go on where the one before ended are put together: the terminal decides where they break. */
function paragraphs(text: string): string {
  return text.replace(/(\S)\n(?=\S)/g, '$1 ');
}

function version(): string {
  const { version: text } = JSON.parse(readFileSync(join(packageFolder(), 'package.json'), 'utf8')) as Version;
  return text;
}

interface Version {
  readonly version: string;
}

function isParserError(e: unknown): e is CommanderError {
  return e instanceof Error && 'code' in e && String(e.code).startsWith('commander.');
}

/** What is wrong with a command line, in one line. */
function complaint(e: CommanderError, parser: Parser): string {
  const text = e.message.replace(/^error: /, '').replace(/\n\((Did you mean .*)\)$/s, ' ($1)');
  if (e.code === 'commander.missingArgument') {
    const missing = parser.registeredArguments.find((a, n) => a.required && parser.args[n] === undefined);
    return missing === undefined ? text : `expected ${missing.description.replace(/ \(.*\)$/, '')}`;
  }
  if (e.code !== 'commander.unknownCommand' || text.includes('Did you mean')) return text;
  return `${text}; the commands are ${parser.commands.map((c) => c.name()).join(', ')}`;
}

/**
 * Reads a command line, and loads the verb it names.
 * @returns the verb with its arguments; a number: the exit status, when nothing is left to do.
 */
export async function parse(
  commands: readonly (Command | LaterCommand)[],
  argv: readonly string[],
  io: Io,
): Promise<Parsed | number> {
  const root = new Parser('viommu');
  let named: Parser = root;
  let found: Parsed | null = null;
  let invoked = 'viommu';
  root
    .exitOverride()
    .configureOutput({
      writeOut: (text) => io.out(text.trimEnd()),
      writeErr: () => {},
      outputError: () => {},
      getOutHelpWidth: () => Math.min(process.stdout.columns ?? WIDTH, WIDTH),
      getOutHasColors: () => colored(io, root.opts<Common>()),
    })
    .configureHelp({
      showGlobalOptions: true,
      optionDescription: (option) => option.description,
      commandUsage: (parser) => `${invoked} ${parser.usage()}`,
      styleTitle: (title) => session(io, root.opts<Common>()).paint('bold', title),
    })
    .helpCommand(false)
    .on('option:version', () => {
      throw new Done(version());
    });
  common(root);
  root.option('--version', 'which viommu this is');
  for (const listed of commands) root.command(listed.name).summary(listed.summary);
  root.hook('preSubcommand', async (_root, parser) => {
    named = parser;
    const listed = commands.find((c) => c.name === parser.name());
    if (listed === undefined) return;
    const command = 'load' in listed ? await listed.load() : listed;
    invoked = command.invoked ?? `viommu ${command.name}`;
    declare(parser, command);
    parser.action(() => {
      const values = parser.optsWithGlobals<Common>();
      found = { command, args: parser.args, values, session: session(io, values), usage: usageOf(parser, invoked) };
    });
  });
  const label = (): string => (named === root ? 'viommu' : `viommu ${named.name()}`);
  try {
    await root.parseAsync(argv, { from: 'user' });
    return found ?? EXIT.INPUT;
  } catch (e) {
    if (e instanceof Done) {
      io.out(e.message);
      return EXIT.OK;
    }
    if (isParserError(e)) {
      if (e.exitCode === 0) return EXIT.OK;
      io.err(`${label()}: ${complaint(e, named)}`);
    } else if (e instanceof ViommuError) io.err(`${label()}: ${e.message}`);
    else throw e;
    io.err(usageOf(named, invoked));
    return EXIT.INPUT;
  }
}

function usageOf(parser: Parser, invoked: string): string {
  return `usage: ${invoked} ${parser.parent === null ? 'COMMAND [OPTIONS] [ARGUMENTS]' : parser.usage()}`;
}

/** An option that is answered at once. */
class Done extends Error {}
