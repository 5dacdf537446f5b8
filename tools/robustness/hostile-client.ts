import { FakeProgram, frame, T, Wire } from '../fuzz/socket-client.ts';

const IOAS_ALLOC = 0x3b81;
const FAULT_ALLOC = 0x3b8e;

/** What a client can do to a server, and so to the others. */
export const HOSTILE = ['silent', 'flooding', 'half frames', 'hoarder', 'killed'] as const;
export type HostileKind = (typeof HOSTILE)[number];

const pause = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Sixty connections, each inside an ioctl whose questions it does not answer. */
async function silent(path: string): Promise<void> {
  for (let i = 0; i < 60; i++) {
    const p = await FakeProgram.open(path);
    p.sendIoctl(IOAS_ALLOC, p.put(0, 12, 0, 0));
    await p.serve(() => true);
  }
}

/** Requests without an end, as fast as the server takes them. */
async function flooding(path: string): Promise<void> {
  const p = await FakeProgram.open(path);
  p.wire.socket.resume();
  const some = Buffer.concat(Array.from({ length: 256 }, () => frame(T.POLL)));
  for (;;) {
    if (p.wire.closed) return await flooding(path);
    if (!p.wire.socket.write(some)) await new Promise((resolve) => p.wire.socket.once('drain', resolve));
    // Answers are read, or the server would send it away at once.
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Large frames that are begun and never ended, on new connections. */
async function halfFrames(path: string): Promise<void> {
  for (;;) {
    const wire = await Wire.dial(path).catch(() => null);
    wire?.socket.write(frame(T.OPEN, new Uint8Array(4000)).subarray(0, 1 + Math.floor(Math.random() * 3900)));
    await pause(2);
  }
}

/** Descriptors and objects, kept for ever. */
async function hoarder(path: string): Promise<void> {
  const p = await FakeProgram.open(path);
  p.prefetch = 96;
  for (;;) {
    const { result } = await p.ioctl(FAULT_ALLOC, p.put(0, 16, 0, 0, 0));
    await p.ioctl(IOAS_ALLOC, p.put(0x100, 12, 0, 0));
    if (Number.isNaN(result)) return await hoarder(path);
    await pause(result === 0 ? 0 : 5);
  }
}

/** Calls that are never ended: the connection breaks off in the middle of each. */
async function killed(path: string): Promise<void> {
  for (;;) {
    const p = await FakeProgram.open(path).catch(() => null);
    if (p === null) {
      await pause(5);
      continue;
    }
    p.sendIoctl(IOAS_ALLOC, p.put(0, 12, 0, 0));
    await p.serve(() => true);
    p.wire.socket.destroy();
  }
}

const KINDS: Readonly<Record<HostileKind, (path: string) => Promise<void>>> = {
  silent,
  flooding,
  'half frames': halfFrames,
  hoarder,
  killed,
};

if (import.meta.filename === process.argv[1]) {
  const [, , kind, path] = process.argv;
  process.on('disconnect', () => process.exit(0));
  const run = KINDS[kind as HostileKind](path!);
  process.send?.('ready');
  await run;
}
