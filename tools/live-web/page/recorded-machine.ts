import type { LiveMachine } from './machine.ts';

/** Milliseconds between two portions of a recording. */
const TICK = 50;
/** Events that a step asks for at a time. */
const LITTLE = 40;

/**
 * A recording as if its machine ran: for IOMMUs of which no emulator runs in a browser. The guests of such recordings are programs
 * without an operating system, or kernels in QEMU; all that is left of them is what they did.
 * @param name of the recording. @param perSecond events that happen in a second.
 * @throws Error the server does not have it.
 */
export async function recordedMachine(name: string, perSecond: number): Promise<LiveMachine> {
  const answer = await fetch(`./recordings/${name}.ndjson.gz`);
  if (!answer.ok || answer.body === null) throw new Error(`there is no recording '${name}' here`);
  const gzip = new DecompressionStream('gzip') as unknown as ReadableWritablePair<Uint8Array, Uint8Array>;
  const text = await new Response(answer.body.pipeThrough(gzip)).text();
  const [header, ...lines] = text.trimEnd().split('\n') as [string, ...string[]];
  let at = 0;
  let fresh: string[] = [];
  let timer: ReturnType<typeof setInterval> | null = null;
  const happen = (count: number) => {
    fresh.push(...lines.slice(at, at + count));
    at = Math.min(lines.length, at + count);
  };
  const machine: LiveMachine = {
    name,
    header,
    take() {
      const taken = fresh.length === 0 ? '' : `${fresh.join('\n')}\n`;
      fresh = [];
      return taken;
    },
    async go() {
      timer ??= setInterval(() => happen(Math.ceil((perSecond * TICK) / 1000)), TICK);
    },
    async halt() {
      if (timer !== null) clearInterval(timer);
      timer = null;
    },
    async little() {
      happen(LITTLE);
    },
    get ended() {
      return at === lines.length;
    },
    console: null,
    send() {},
    stray: null,
    error: '',
  };
  await machine.go();
  return machine;
}
