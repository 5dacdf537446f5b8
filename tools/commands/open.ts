import type { AddressInfo } from 'node:net';
import { openTrace } from '../../src/trace/node.ts';
import { onSignals } from '../cli/leaving.ts';
import { atLeast } from '../cli/parser.ts';
import type { Session } from '../cli/session.ts';
import { type Command, EXIT, usageError } from '../cli/verb.ts';
import { serveExplorer } from '../explorer/server.ts';

/** Links keep their meaning as long as the address is the same. */
const PORT = 8088;
const LAST_PORT = 65535;

interface Values {
  readonly port?: number;
}

/** Reads a recording to its end. @throws ViommuError `E_MISSING`, `E_TRACE_FORMAT`. */
async function check(path: string, io: Session): Promise<number> {
  const trace = await openTrace(path);
  let events = 0;
  for await (const batch of trace.batches) {
    events += batch.length;
    io.progress(`${path}: ${events} events`);
  }
  return events;
}

/** `viommu open`. */
export const openCommand: Command = {
  name: 'open',
  summary: 'recordings in the trace explorer, a page in your browser',
  about: `Serves the explorer on this machine's loopback interface: the whole run as a timeline, the cause of everything, registers,
tables, host objects and caches at any event, and what two runs differ in. Recordings are read to their end first.`,
  notes:
    'It serves until Ctrl-C. Only 127.0.0.1, localhost and ::1 are answered, and nothing but the page and these recordings.',
  examples: ['viommu open boot.ndjson.gz', 'viommu open --port 9000 good.ndjson.gz bad.ndjson.gz'],
  declare(parser) {
    parser
      .argument('<trace...>', 'recordings; the first is shown')
      .option('--port <n>', `where it listens; 0 takes any that is free (default: ${PORT})`, atLeast(0));
  },
  async run(paths, { port = PORT }: Values, io) {
    if (port > LAST_PORT) throw usageError(`--port: expected a number from 0 to ${LAST_PORT}, found ${port}`);
    for (const path of paths) {
      if (path === '-') throw usageError('the page reads recordings again: give files, not the standard input');
      const events = await check(path, io);
      io.note(`${path}: ${events} events`);
    }
    const server = await serveExplorer(paths, { port });
    const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
    io.out(io.json ? JSON.stringify({ address, recordings: paths }) : `${address} (end with Ctrl-C)`);
    await new Promise<void>((done) => onSignals(() => done()));
    server.close();
    server.closeAllConnections();
    return EXIT.OK;
  },
};
