import { FakeProgram } from '../fuzz/socket-client.ts';

const IOAS_ALLOC = 0x3b81;
const DESTROY = 0x3b80;

/** Many clients in one process, each calling; the process may be killed at any moment. */
async function client(path: string, count: () => void): Promise<void> {
  const p = await FakeProgram.open(path);
  p.prefetch = 96;
  for (;;) {
    const made = await p.ioctl(IOAS_ALLOC, p.put(0, 12, 0, 0));
    const gone = await p.ioctl(DESTROY, p.put(0x40, 8, p.u32(8)));
    if (made.result !== 0 || gone.result !== 0) throw new Error(`answers ${made.result} ${gone.result}`);
    count();
    await new Promise((resolve) => setTimeout(resolve, 20 + Math.random() * 100));
  }
}

if (import.meta.filename === process.argv[1]) {
  const [, , path, clients] = process.argv;
  let calls = 0;
  let failed = 0;
  let why = '';
  process.on('disconnect', () => process.exit(0));
  process.on('message', () => process.send?.({ calls, failed, why }));
  for (let i = 0; i < Number(clients); i++) {
    client(path!, () => void calls++).catch((e: unknown) => {
      failed++;
      why ||= String(e);
    });
    if (i % 20 === 19) await new Promise((resolve) => setTimeout(resolve, 10));
  }
  process.send?.('ready');
}
