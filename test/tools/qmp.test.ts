import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Qmp } from '../../tools/live/qmp.ts';

let dir = '';
let server: Server;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'viommu-qmp-'));
  // A QEMU that answers, tells of an event, and dies when it is asked to stop.
  server = createServer((socket) => {
    socket.setEncoding('utf8').on('data', (text: string) => {
      for (const line of text.trim().split('\n')) {
        const { execute } = JSON.parse(line) as { execute: string };
        if (execute === 'stop') socket.destroy();
        else if (execute === 'wrong') socket.write('{"error": {"desc": "there is no such command"}}\n');
        else socket.write(`{"event": "RESET"}\n{"return": "${execute}"}\n`);
      }
    });
    socket.on('error', () => {});
  });
  await new Promise<void>((ready) => server.listen(join(dir, 'qmp'), ready));
});
afterAll(() => {
  server.close();
  rmSync(dir, { recursive: true, force: true });
});

test('commands are answered in order, and what QEMU says against one is thrown', async () => {
  const qmp = await Qmp.open(join(dir, 'qmp'));
  const wrong = qmp.run('wrong').catch((e: Error) => e.message);
  expect(await Promise.all([qmp.run('first'), qmp.run('second')])).toEqual(['first', 'second']);
  expect(await wrong).toContain('there is no such command');
  expect([await qmp.event('RESET'), await qmp.event('NEVER', null, 10)]).toEqual([true, false]);
  qmp.close();
});

test('when QEMU dies, whoever waits for an answer or an event is told so, and later commands too', async () => {
  const qmp = await Qmp.open(join(dir, 'qmp'));
  const before = performance.now();
  const never = qmp.event('NEVER');
  const waiting = [qmp.run('stop'), qmp.run('query-status')];
  for (const w of waiting) await expect(w).rejects.toThrow('it has ended');
  expect(await never).toBe(false);
  await expect(qmp.run('query-status')).rejects.toThrow('it has ended');
  // The event had half a minute.
  expect(performance.now() - before).toBeLessThan(10_000);
});
