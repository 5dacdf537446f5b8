/**
 * What clients together, a session (a program with its forks) and a connection may take of the server. Whoever goes beyond
 * loses the connection, or is told ENOMEM where a kernel would say so.
 */
export interface ServerLimits {
  /** Connections of all clients. */
  readonly connections: number;
  /** Connections of one session. */
  readonly connectionsPerSession: number;
  /** Milliseconds a client may take for its first frame, for the rest of a frame, and for the answer to a question. */
  readonly patience: number;
  /** Bytes of frames that are not complete, of all connections together. */
  readonly pendingBytes: number;
  /** Bytes that wait to be read by one client. */
  readonly unreadBytes: number;
  /** Bytes of client memory one ioctl may look at. */
  readonly bytesPerRequest: number;
  /** Questions one ioctl may need. */
  readonly questionsPerRequest: number;
  /** Objects of all iommufds of a session. */
  readonly objectsPerSession: number;
  /** Mapped areas of all iommufds of a session. */
  readonly areasPerSession: number;
  /** Windows over memory of a session, 1 GiB each. */
  readonly windowsPerSession: number;
  /** Windows over memory of all sessions together: addresses of 48 bits have room for 131,072. */
  readonly windows: number;
  /** Pages a session may have pinned, 4 KiB each. */
  readonly pinnedPerSession: number;
  /** Pages all sessions together may have pinned, 4 KiB each. */
  readonly pinned: number;
}

/** What clients take of a server. */
export interface ServerUsage {
  /** Programs with something open; one with its forks is one. */
  readonly sessions: number;
  /** Windows over client memory, 1 GiB each. */
  readonly windows: number;
  /** Pinned pages, 4 KiB each. */
  readonly pinned: number;
}

/** Room for every program of the kernel's tests, and for a machine with 256 GiB that is mapped as one. */
export const DEFAULT_LIMITS: ServerLimits = {
  connections: 8192,
  connectionsPerSession: 1024,
  patience: 10_000,
  pendingBytes: 64 << 20,
  unreadBytes: 16 << 20,
  bytesPerRequest: 48 << 20,
  questionsPerRequest: 256,
  objectsPerSession: 1 << 17,
  areasPerSession: 1 << 18,
  windowsPerSession: 1024,
  windows: 1 << 16,
  pinnedPerSession: 2 ** 26,
  pinned: 2 ** 28,
};

/** Bytes of a request: an ioctl's first bytes, what is written to a file. */
export const MAX_PREFETCH = 4096;
export const MAX_WRITE = 1 << 20;
/** Bytes asked for in one question. Mappings of a process beyond this are not seen. */
export const MAX_COPY = 1 << 20;
export const MAX_MAPS = 4 << 20;
/** A read(2) is answered with at most this much: no queue holds more. */
export const MAX_READ = 1 << 20;
