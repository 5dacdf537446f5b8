import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parseServerOptions } from '../../../src/adapters/qtest/options.ts';
import { QtestSession } from '../../../src/adapters/qtest/session.ts';
import { parseTranscript, runTranscript, tellDifference } from '../../../src/adapters/qtest/transcript.ts';
import { createQemuMachine } from '../../../src/machine/qemu-machine.ts';

const CORPUS = join(import.meta.dirname, '../../../guest-fixtures/qtest');

for (const kind of ['smmuv3', 'smmuv3-random', 'smmuv3-found', 'vtd', 'vtd-found']) {
  describe(`QEMU's answers, ${kind}`, () => {
    for (const name of readdirSync(join(CORPUS, kind)).sort()) {
      const transcript = parseTranscript(`${kind}/${name}`, readFileSync(join(CORPUS, kind, name), 'utf8'));
      test(`${name}: ${transcript.title}`, () => {
        const { machine, nic, vga } = parseServerOptions(transcript.args);
        const session = new QtestSession(createQemuMachine(machine, { nic, vga }));
        const outcome = runTranscript(transcript, (request) => session.execute(request));
        expect(outcome.differences.map(tellDifference)).toEqual([]);
      });
    }
  });
}
