import { readFileSync, writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { ViommuError } from '../../src/core/errors.ts';
import type { Said } from '../../src/ports/tell.ts';
import { type Command, EXIT, usageError } from '../cli/command.ts';
import { main } from '../cli/main.ts';
import { table } from '../cli/table.ts';
import { accessesPath, accessText } from './accesses.ts';
import { loadElf } from './elf.ts';
import { GUESTS, type GuestImage, imagePath } from './guests.ts';
import { buildMachine, SHARED, UART, windowsOf } from './machine.ts';
import { type CpuWindow, Unicorn } from './unicorn.ts';

const RAM = 0x4000_0000;
/** Far more than any guest needs: one that hangs is stopped. */
const MOST_INSTRUCTIONS = 50_000_000;

interface Outcome {
  readonly said: string;
  readonly counts: Readonly<Record<string, number>>;
  /** Every access of the processor to devices and shared memory, in order. */
  readonly accesses: readonly string[];
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
    const accesses: string[] = [];
    for (const [base, bytes, window] of windows) {
      cpu.mapWindow(base, bytes, base === UART ? window : overheard(base, window, accesses));
    }
    cpu.watch(SHARED.base, SHARED.base + SHARED.size - 1, (store, address, size, value) => {
      if (store) accesses.push(accessText('s', address, size, value));
      else {
        map.read(address, size);
        const loaded = (BigInt(map.hi >>> 0) << 32n) | BigInt(map.lo >>> 0);
        accesses.push(accessText('l', address, size, BigInt.asUintN(8 * size, loaded)));
      }
    });
    const entry = loadElf(readFileSync(imagePath(guest.name)), (address, bytes) =>
      map.space.writeBytes(address, bytes),
    );
    if (entry < RAM) throw new ViommuError('EINVAL', 'caller', 'the image does not start in RAM', { entry });
    cpu.run(entry, MOST_INSTRUCTIONS);
    return { said, counts, accesses };
  } finally {
    cpu.close();
  }
}

/** Writes down what passes through a window; a write before what it causes. */
function overheard(base: number, window: CpuWindow, accesses: string[]): CpuWindow {
  return {
    read(offset, size) {
      const value = window.read(offset, size);
      accesses.push(accessText('r', base + offset, size, BigInt(value)));
      return value;
    },
    write(offset, size, value) {
      accesses.push(accessText('w', base + offset, size, value));
      window.write(offset, size, value);
    },
  };
}

const live: Command = {
  name: 'live:arm',
  summary: 'run the bare-metal AArch64 guests live',
  invoked: 'npm run live:arm --',
  about: 'Runs the guests of guest-fixtures/aarch64 on libunicorn, with our machine around the processor.',
  examples: ['npm run live:arm', `npm run live:arm -- ${GUESTS[0]!.name}`],
  declare(parser) {
    parser
      .argument('[guest...]', `which of them (default: all): ${GUESTS.map((g) => g.name).join(', ')}`)
      .option(
        '--record',
        'also writes the accesses of architecture guests into guest-fixtures/aarch64/accesses, where npm test replays them',
      );
  },
  async run(names, values: { readonly record?: boolean }, io) {
    const { record = false } = values;
    for (const name of names) if (!GUESTS.some((g) => g.name === name)) throw usageError(`no guest is called ${name}`);
    const rows: string[][] = [];
    let failed = 0;
    for (const guest of GUESTS.filter((g) => names.length === 0 || names.includes(g.name))) {
      const { said, counts, accesses } = run(guest);
      const passed = said.endsWith('PASS\n');
      if (!passed) {
        failed++;
        for (const line of said.trimEnd().split('\n')) io.out(`${guest.name}: ${line}`);
      }
      if (record && passed && !guest.onQemu)
        writeFileSync(accessesPath(guest.name), gzipSync(`${accesses.join('\n')}\n`, { level: 9 }));
      const count = (what: string) => String(counts[what] ?? 0);
      const result = passed ? 'PASS' : 'FAIL';
      rows.push([guest.name, count('command'), count('host'), count('record'), result]);
    }
    if (io.json) {
      for (const [guest, commands, hostOps, records, result] of rows)
        io.out(JSON.stringify({ guest, commands, hostOps, records, result }));
      return failed === 0 ? EXIT.OK : EXIT.DIFFERS;
    }
    const head = ['guest', 'commands', 'host ops', 'event records', ''];
    for (const line of table([head, ...rows])) io.out(line);
    return failed === 0 ? EXIT.OK : EXIT.DIFFERS;
  },
};

await main([live], ['live:arm', ...process.argv.slice(2)]);
