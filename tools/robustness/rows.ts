import { fuzz } from '../fuzz/fuzz.ts';
import { TARGETS } from '../fuzz/targets/index.ts';
import { DEAREST_MS } from '../fuzz/targets/machine.ts';
import { failuresSurvived, hostileAccesses } from './hostile-accesses.ts';
import { HOSTILE } from './hostile-client.ts';
import { crowd, latencies } from './server-load.ts';

/** Bytes that the heap may grow by while a machine is used. */
const GROWTH_BYTES = 16 << 20;
/** Times that a call may take beside a hostile client. */
const RATIO = 2;

/** One line of the report. */
export interface ReportLine {
  readonly what: string;
  readonly found: string;
  readonly wanted: string;
  readonly holds: boolean;
}

/** How much of each row is done. */
export interface Sizes {
  readonly accesses: number;
  /** Inputs of each fuzz target. */
  readonly inputs: number;
  readonly clients: number;
  /** Accesses of machines of which steps fail, in runs of 400. */
  readonly failing: number;
  /** Calls of each well-behaved client, and rounds of them. */
  readonly calls: number;
  readonly rounds: number;
  /** Milliseconds a crowd of clients calls. */
  readonly crowding: number;
  /** Milliseconds after which a row begins nothing more. */
  readonly milliseconds: number;
  readonly seed: number;
}

/** A part of the report that can be made alone. */
export interface Row {
  readonly name: string;
  /** What it does, for the list. */
  readonly summary: string;
  run(sizes: Sizes, progress: (line: string) => void): Promise<readonly ReportLine[]>;
}

const thousands = (n: number): string => Math.round(n).toLocaleString('en-US');

async function accesses(s: Sizes, progress: (line: string) => void): Promise<readonly ReportLine[]> {
  const { seed, milliseconds } = s;
  const told = (done: number) => progress(`${thousands(done)} accesses`);
  const r = hostileAccesses({ total: s.accesses, seed, milliseconds, progress: told });
  const rate = thousands(r.accesses / r.seconds);
  return [
    {
      what: 'accesses of hostile guests',
      found: `${thousands(r.accesses)} on ${r.machines} machines, ${rate} a second`,
      wanted: 'no exception, nothing of another VM',
      holds: true,
    },
    {
      what: 'dearest single access',
      found: `${r.worst.toFixed(1)} ms (${r.worstOf})`,
      wanted: `${DEAREST_MS} ms`,
      holds: r.worst <= DEAREST_MS,
    },
    {
      what: 'heap growth of a machine',
      found: `${thousands(r.growth / 1024)} KiB`,
      wanted: `${GROWTH_BYTES >> 20} MiB`,
      holds: r.growth <= GROWTH_BYTES,
    },
  ];
}

async function failures(s: Sizes): Promise<readonly ReportLine[]> {
  const r = failuresSurvived(s.failing, s.seed);
  const found = `${thousands(r.failed)} in ${thousands(r.accesses)} accesses`;
  return [{ what: 'failures survived', found, wanted: 'no exception', holds: r.failed > 0 }];
}

async function inputs(s: Sizes, progress: (line: string) => void): Promise<readonly ReportLine[]> {
  const { seed } = s;
  let tried = 0;
  const found: string[] = [];
  const ready = TARGETS.filter((t) => (t.missing?.() ?? null) === null);
  for (const target of ready) {
    const share = s.milliseconds / ready.length;
    const result = await fuzz(target, { seed, inputs: s.inputs, milliseconds: share });
    tried += result.inputs;
    progress(`${target.name}: ${thousands(result.inputs)} inputs`);
    if (result.found === null) continue;
    const { index, error } = result.found;
    found.push(target.name);
    progress(`${target.name}, input ${index}: ${error.split('\n')[0]}: npm run fuzz -- ${target.name} --seed ${seed}`);
  }
  return [
    {
      what: 'random inputs tried',
      found: `${thousands(tried)} on ${ready.length} targets${found.length > 0 ? `; found by ${found.join(', ')}` : ''}`,
      wanted: 'nothing found',
      holds: found.length === 0,
    },
  ];
}

async function clients(s: Sizes): Promise<readonly ReportLine[]> {
  const c = await crowd(s.clients, s.clients > 100 ? 10 : 4, s.crowding, s.seed);
  const wrong = [
    c.refused > 0 ? `; ${thousands(c.refused)} refused (${c.why})` : '',
    c.left > 0 ? `; ${thousands(c.left)} things left` : '',
    c.broken > 0 ? `; ${thousands(c.broken)} failures of the server` : '',
  ].join('');
  return [
    {
      what: 'clients of the server',
      found: `${thousands(c.clients)}, of which ${thousands(c.killed)} killed, ${thousands(c.calls)} calls of the others${wrong}`,
      wanted: 'none refused, nothing left',
      holds: c.refused + c.left + c.broken === 0 && c.calls > 0,
    },
  ];
}

async function latency(s: Sizes): Promise<readonly ReportLine[]> {
  return (await latencies(HOSTILE, s.rounds, s.calls)).map((l) => ({
    what: `latency beside a client that is ${l.kind}`,
    found: `${l.ratio.toFixed(2)}x (${l.alone.toFixed(2)} ms, ${l.beside.toFixed(2)} ms)`,
    wanted: `${RATIO}x`,
    holds: l.ratio <= RATIO,
  }));
}

/** The report, in parts. */
export const ROWS: readonly Row[] = [
  { name: 'accesses', summary: 'hostile guests, the dearest of their accesses, the heap they leave', run: accesses },
  { name: 'failures', summary: 'machines of which steps are made to fail', run: failures },
  { name: 'inputs', summary: 'each fuzz target', run: inputs },
  { name: 'clients', summary: 'clients of the server of which random ones are killed', run: clients },
  { name: 'latency', summary: 'a well-behaved client of the server beside hostile ones', run: latency },
];
