import type { AddressInfo } from 'node:net';
import { serve } from './server.ts';

const at = process.argv.indexOf('--port');
const port = at < 0 ? 8086 : Number(process.argv[at + 1]);
if (!Number.isInteger(port) || port < 0 || port > 65535) {
  process.stderr.write('live:web: --port wants a number from 0 to 65535\n');
  process.exitCode = 2;
} else {
  try {
    const server = await serve(port);
    process.stdout.write(`live:web: http://127.0.0.1:${(server.address() as AddressInfo).port}/ (end with Ctrl-C)\n`);
  } catch (e) {
    process.stderr.write(`live:web: ${(e as Error).message}\n`);
    process.exitCode = 2;
  }
}
