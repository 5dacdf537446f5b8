import type { OpenFile } from './open-files.ts';
import type { ProcessMaps } from './process-maps.ts';

/** What the server needs to know of a client to go on. */
export type Question =
  | { readonly what: 'bytes'; readonly pid: number; readonly address: bigint; readonly length: number }
  | { readonly what: 'file bytes'; readonly handle: number; readonly offset: bigint; readonly length: number }
  | { readonly what: 'maps'; readonly pid: number }
  /** Which open file of ours a descriptor is. */
  | { readonly what: 'which'; readonly fd: number }
  /** An eventfd that the client is to keep for the server. */
  | { readonly what: 'eventfd'; readonly fd: number }
  /** What file of somebody else's it is. */
  | { readonly what: 'file'; readonly fd: number }
  /** A connection for a file that is about to be opened. */
  | { readonly what: 'descriptor' };

/** What a client says of a file that is not ours. */
export interface FileFacts {
  readonly bytes: bigint;
  /** Device and inode, as `Mapping.file`. */
  readonly identity: string;
  readonly memfd: boolean;
  /** By which the client finds it again. */
  readonly handle: number;
}

/** A descriptor that leads to a connection nobody uses yet. */
export interface SpareDescriptor {
  readonly fd: number;
  /** From now on the connection is this file's. */
  open(file: OpenFile): void;
}

/** Bytes that were asked for: `data.length` of them are there. If that is less than `asked`, the rest cannot be read. */
interface Piece {
  readonly space: string;
  readonly at: bigint;
  readonly asked: number;
  readonly data: Uint8Array;
}

/** What a client has told while one of its requests is worked on. Nothing of it outlives the request. */
export class Answers {
  /** How many bytes it holds. */
  bytes = 0;
  readonly maps = new Map<number, ProcessMaps>();
  /** By descriptor: an open file of ours, or -errno. */
  readonly files = new Map<number, OpenFile | number>();
  readonly facts = new Map<number, FileFacts | number>();
  /** By descriptor of an eventfd: the number the client keeps it under, or -errno. */
  readonly eventFds = new Map<number, number>();
  readonly spares: SpareDescriptor[] = [];
  readonly #pieces: Piece[] = [];

  /** @param space a process or a file; see `spaceOf`. */
  put(space: string, at: bigint, asked: number, data: Uint8Array): void {
    this.#pieces.push({ space, at, asked, data });
    this.bytes += data.length;
  }

  /**
   * Copies what is known of [at, at + into.length). @returns how many bytes are known to be there; -1: not all of them are
   * known, and `missing` is the first.
   */
  read(space: string, at: bigint, into: Uint8Array): number {
    for (let done = 0; done < into.length; ) {
      const address = at + BigInt(done);
      const piece = this.#pieces.find((p) => p.space === space && p.at <= address && address < p.at + BigInt(p.asked));
      if (piece === undefined) {
        this.missing = address;
        return -1;
      }
      const offset = Number(address - piece.at);
      const data = piece.data.subarray(offset, offset + into.length - done);
      into.set(data, done);
      done += data.length;
      const end = offset + data.length;
      if (done < into.length && end < piece.asked) return done;
    }
    return into.length;
  }
  missing = 0n;
}

/** The name of a process's address space, or of a file, among the answers. */
export function spaceOf(kind: 'process' | 'file', number: number): string {
  return `${kind} ${number}`;
}
