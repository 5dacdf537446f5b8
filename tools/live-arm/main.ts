import { readFileSync } from 'node:fs';
import { ViommuError } from '../../src/core/errors.ts';
import type { Said } from '../../src/ports/tell.ts';
import { type Command, EXIT, runCommand, usageError } from '../cli/command.ts';
import { table } from '../cli/table.ts';
import { loadElf } from './elf.ts';
import { GUESTS, type GuestImage, imagePath } from './guests.ts';
import { buildMachine, windowsOf } from './machine.ts';
import { Unicorn } from './unicorn.ts';

const RAM = 0x4000_0000;
/** Far more than any guest needs: one that hangs is stopped. */
const MOST_INSTRUCTIONS = 50_000_000;

interface Outcome {
  readonly said: string;
  readonly counts: Readonly<Record<string, number>>;
}

/** Runs one guest to its PASS or FAIL. */
function run(guest: GuestImage): Outcome {
  const counts: Record<string, number> = {};
  const tell = (s: Said) => {
    const what = s.what === 'host' ? 'host' : s.what;
    counts[what] = (counts[what] ?? 0) + 1;
  };
  const machine = buildMachine(guest, tell);
  const map = machine.map!;
  const cpu = new Unicorn();
  try {
    for (const r of map.space.ram()) cpu.mapRam(r.base, r.backing.words());
    let said = '';
    const windows = windowsOf(map, (byte) => {
      said += String.fromCharCode(byte);
      if (/(PASS|FAIL)\n$/.test(said)) cpu.stop();
    });
    for (const [base, bytes, window] of windows) cpu.mapWindow(base, bytes, window);
    const entry = loadElf(readFileSync(imagePath(guest.name)), (address, bytes) =>
      map.space.writeBytes(address, bytes),
    );
    if (entry < RAM) throw new ViommuError('EINVAL', 'caller', 'the image does not start in RAM', { entry });
    cpu.run(entry, MOST_INSTRUCTIONS);
    return { said, counts };
  } finally {
    cpu.close();
  }
}

const live: Command = {
  name: 'live:arm',
  summary: 'run the bare-metal AArch64 guests live',
  usage: `usage: npm run live:arm -- [GUEST...]

Runs the guests of guest-fixtures/aarch64 on libunicorn, with our machine around the processor. Guests: ${GUESTS.map((g) => g.name).join(', ')}.`,
  async run(args, io) {
    for (const name of args) if (!GUESTS.some((g) => g.name === name)) throw usageError(`no guest is called ${name}`);
    const rows: string[][] = [];
    let failed = 0;
    for (const guest of GUESTS.filter((g) => args.length === 0 || args.includes(g.name))) {
      const { said, counts } = run(guest);
      const passed = said.endsWith('PASS\n');
      if (!passed) {
        failed++;
        for (const line of said.trimEnd().split('\n')) io.out(`${guest.name}: ${line}`);
      }
      const count = (what: string) => String(counts[what] ?? 0);
      const result = passed ? 'PASS' : 'FAIL';
      rows.push([guest.name, count('command'), count('host'), count('record'), result]);
    }
    const head = ['guest', 'commands', 'host ops', 'event records', ''];
    for (const line of table([head, ...rows])) io.out(line);
    return failed === 0 ? EXIT.OK : EXIT.DIFFERS;
  },
};

process.exitCode = await runCommand([live], ['live:arm', ...process.argv.slice(2)], {
  out: (line) => void process.stdout.write(`${line}\n`),
  err: (line) => void process.stderr.write(`${line}\n`),
});
