/**
 * What must not stay behind when the program is told to end in the middle: whoever makes such a thing (a file that is half
 * written, a process) says here how it is taken away.
 */
const LEFT = new Set<() => void>();

/** @param undo takes something away, at once. @returns a function to call when there is nothing to take away any more. */
export function beforeLeaving(undo: () => void): () => void {
  LEFT.add(undo);
  return () => void LEFT.delete(undo);
}

/** Ends the process, and leaves nothing. What cannot be taken away does not keep the rest from being. */
export function leave(status: number): never {
  for (const undo of LEFT) {
    try {
      undo();
    } catch {
      // It is gone already, or somebody else's now.
    }
  }
  process.exit(status);
}

/** What shells say of a process that a signal ended. */
const STATUS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129, SIGPIPE: 141 } as const;

type Signal = 'SIGINT' | 'SIGTERM' | 'SIGHUP';
const handlers = new Map<Signal, () => void>();

/** Until `onSignals` says otherwise, signals end the program with the status that shells expect. */
export function endOnSignals(before: () => void): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    const handler = () => {
      before();
      leave(STATUS[signal]);
    };
    handlers.set(signal, handler);
    process.on(signal, handler);
  }
}

/** A verb that ends by itself when it is told to: `then` is called once, and only once. */
export function onSignals(then: (signal: Signal) => void): void {
  for (const [signal, handler] of handlers) process.off(signal, handler);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => then(signal));
}

/** A reader that went away (`viommu … | head`) ends the program as it ends others: quietly. */
export function endOnClosedPipe(stream: NodeJS.WriteStream, failed: (why: string) => number): void {
  stream.on('error', (e: NodeJS.ErrnoException) => leave(e.code === 'EPIPE' ? STATUS.SIGPIPE : failed(e.message)));
}
