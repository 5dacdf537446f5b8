import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { ViommuError } from '../../core/errors.ts';
import type { Channel } from './options.ts';
import { LONGEST_RANGE } from './session.ts';

/** A request line longer than this is no request: a `write` of the longest range has two digits a byte. */
const LONGEST = 2 * LONGEST_RANGE + 64;

/**
 * Cuts a byte stream into lines; a last line without line feed is not one yet. What came of it is kept in pieces and joined
 * once, so that a long line costs its length.
 */
export class Lines {
  #rest: string[] = [];
  #length = 0;

  /** @returns the complete lines; null when the sender never ends one. */
  push(chunk: string): string[] | null {
    const parts = chunk.split('\n');
    const last = parts.pop()!;
    if (this.#length + (parts[0] ?? last).length > LONGEST) return null;
    if (parts.length > 0 && this.#rest.length > 0) {
      this.#rest.push(parts[0]!);
      parts[0] = this.#rest.join('');
      this.#rest = [];
      this.#length = 0;
    }
    if (last !== '') this.#rest.push(last);
    this.#length += last.length;
    return parts;
  }
}

/**
 * Opens a channel.
 * @throws ViommuError `ENOENT` when nobody listens there; `EBUSY` when the address is in use.
 */
export function open(channel: Channel, option: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const fail = (e: NodeJS.ErrnoException) => {
      const why = `${option}: cannot ${channel.listen ? 'listen at' : 'connect to'} '${channel.path}': ${e.code ?? e.message}`;
      reject(new ViommuError(e.code === 'EADDRINUSE' ? 'EBUSY' : 'ENOENT', 'caller', why, {}, e));
    };
    if (!channel.listen) {
      const socket: Socket = createConnection(channel.path);
      socket.once('error', fail);
      socket.once('connect', () => {
        socket.off('error', fail);
        resolve(socket);
      });
      return;
    }
    const server: Server = createServer((socket) => {
      server.close();
      resolve(socket);
    });
    server.once('error', fail);
    server.listen(channel.path);
  });
}

export interface Handler {
  /** Answers one line; an empty array answers nothing. */
  line(text: string): readonly string[];
  /** The client went away, or sent what can never become a line. */
  closed(): void;
}

/** Serves lines on a socket until it closes. A client that stops reading is not waited for: replies queue in the socket. */
export function serveLines(socket: Socket, handler: Handler, end: '\n' | '\r\n'): void {
  const lines = new Lines();
  let over = false;
  const close = () => {
    if (over) return;
    over = true;
    socket.destroy();
    handler.closed();
  };
  socket.setEncoding('latin1');
  socket.on('data', (chunk: string) => {
    const complete = lines.push(chunk);
    if (complete === null) return close();
    let out = '';
    for (const line of complete) for (const reply of handler.line(line)) out += reply + end;
    if (out !== '') socket.write(out, 'latin1');
  });
  socket.on('error', close);
  socket.on('end', close);
  socket.on('close', close);
}
