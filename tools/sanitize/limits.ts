import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { Sanitizer } from '../../src/sanitize/index.ts';
import { replayFile } from '../replay/run.ts';
import { sanitizeFile } from './run.ts';

/**
 * Measures what judging costs: for every recording the time against that of its replay (at most 3 times), and the memory of a
 * mapped leaf (at most 256 bytes). Exit status 1: something is above.
 */
const FOLDER = 'guest-fixtures/recordings';
const MOST_TIMES = 3;
const MOST_BYTES = 256;
const ALL = { only: null, ignore: new Set<never>(), atLeast: 'hint' } as const;

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;

async function times(): Promise<number> {
  let worst = 0;
  for (const file of readdirSync(FOLDER).filter((f) => f.endsWith('.ndjson.gz'))) {
    const path = join(FOLDER, file);
    const [replays, judged]: [number[], number[]] = [[], []];
    for (let n = 0; n < 2; n++) {
      replays.push((await replayFile(path, makeReplayMachine, {})).seconds);
      judged.push((await sanitizeFile(path, ALL)).seconds);
    }
    const ratio = Math.min(...judged) / Math.min(...replays);
    worst = Math.max(worst, ratio);
    process.stdout.write(`${file.padEnd(44)} ${Math.min(...judged).toFixed(2)} s, ${ratio.toFixed(2)} x replay\n`);
  }
  return worst;
}

/** Bytes of each of many leaves of one SMMUv3 stage-1 table that is told store by store. */
function leafBytes(): number {
  const RAM = 0x4000_0000;
  const leaves = 1 << 17;
  const s = new Sanitizer({ iommu: 'smmuv3', ram: [{ gpa: RAM, size: 2 ** 31 }], devices: [] });
  let i = 0;
  const page = (gpa: number) => s.event({ t: 'page', i: i++, gpa, kind: 'pt', data: null });
  const st = (gpa: number, value: bigint) => {
    const [lo, hi] = [Number(BigInt.asIntN(32, value)), Number(BigInt.asIntN(32, value >> 32n))];
    s.event({ t: 'st', i: i++, gpa, size: 8, lo, hi });
  };
  const w = (off: number, lo: number, size = 4) => s.event({ t: 'w', i: i++, off, size, lo, hi: 0 });
  const [streams, cd, root, middle] = [RAM, RAM + 0x1000, RAM + 0x2000, RAM + 0x3000];
  for (const gpa of [streams, cd, root, middle]) page(gpa);
  // T0SZ 25, EPD1, V, IPS 44 bits, AA64, R, A, ASET, ASID 5.
  st(cd, 25n | (1n << 30n) | (1n << 31n) | (4n << 32n) | (1n << 41n) | (7n << 45n) | (5n << 48n));
  st(cd + 8, BigInt(root));
  st(streams, 0xbn | BigInt(cd));
  w(0x80, streams, 8);
  w(0x88, 0);
  w(0x20, 1);
  st(root, BigInt(middle) | 3n);
  gc();
  const before = process.memoryUsage();
  for (let n = 0; n < leaves; n++) {
    const table = RAM + 0x10_0000 + 0x1000 * Math.floor(n / 512);
    if (n % 512 === 0) {
      page(table);
      st(middle + 8 * (n / 512), BigInt(table) | 3n);
    }
    st(table + 8 * (n % 512), BigInt(RAM + 0x4000_0000 + 0x1000 * (n % 0x1000)) | 0xc43n);
  }
  gc();
  const after = process.memoryUsage();
  if (s.finish().length > 1) throw new Error('the program is not legal');
  return (after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers) / leaves;
}

const bytes = leafBytes();
process.stdout.write(`${bytes.toFixed(1)} bytes for each mapped leaf (at most ${MOST_BYTES})\n`);
const worst = await times();
process.stdout.write(`at most ${worst.toFixed(2)} times the time of a replay (limit ${MOST_TIMES})\n`);
process.exitCode = bytes > MOST_BYTES || worst > MOST_TIMES ? 1 : 0;
