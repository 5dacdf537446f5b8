import { type Command, EXIT, type Io, type LaterCommand, runCommand } from './command.ts';
import { endOnClosedPipe, endOnSignals } from './leaving.ts';

const { stdout, stderr, env } = process;

/** Carriage return, and erase to the end of the line. */
const AGAIN = '\r\x1b[K';

const io: Io = {
  out: (line) => void stdout.write(`${line}\n`),
  err: (line) => void stderr.write(`${line}\n`),
  colors: stdout.isTTY && (env.NO_COLOR ?? '') === '' && env.TERM !== 'dumb',
  ...(stderr.isTTY && env.TERM !== 'dumb'
    ? { show: (text: string) => void stderr.write(`${AGAIN}${text.slice(0, (stderr.columns || 80) - 1)}`) }
    : {}),
};

/** Runs a command line as this process: its output, its signals, its exit status. */
export async function main(commands: readonly (Command | LaterCommand)[], argv: readonly string[]): Promise<void> {
  endOnClosedPipe(stdout, (why) => {
    io.err(`viommu: the standard output cannot be written: ${why}`);
    return EXIT.INPUT;
  });
  // Nobody hears complaints any more: the result may still be wanted.
  stderr.on('error', () => {});
  endOnSignals(() => io.show?.(''));
  process.exitCode = await runCommand(commands, argv, io);
}
