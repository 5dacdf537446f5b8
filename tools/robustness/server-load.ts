import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FakeProgram } from '../fuzz/socket-client.ts';
import { Random } from '../oracle/random.ts';
import type { HostileKind } from './hostile-client.ts';
import { ask, end, start } from './processes.ts';

const IOAS_ALLOC = 0x3b81;
const DESTROY = 0x3b80;

interface ServerState {
  readonly clients: number;
  readonly pendingBytes: number;
  readonly broken: number;
  readonly sessions: number;
  readonly pinned: number;
}

/** How long a well-behaved client waits, alone and beside a hostile one. */
export interface LatencyBeside {
  readonly kind: HostileKind;
  /** Median milliseconds of a call. */
  readonly alone: number;
  readonly beside: number;
  /** Median over the rounds of beside / alone. */
  readonly ratio: number;
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

/** One call. @returns the milliseconds it takes. */
async function call(p: FakeProgram): Promise<number> {
  const before = performance.now();
  const made = await p.ioctl(IOAS_ALLOC, p.put(0, 12, 0, 0));
  const took = performance.now() - before;
  const gone = await p.ioctl(DESTROY, p.put(0x40, 8, p.u32(8)));
  if (made.result !== 0 || gone.result !== 0) throw new Error('a well-behaved client is refused');
  return took;
}

async function goodClient(path: string): Promise<FakeProgram> {
  const p = await FakeProgram.open(path);
  p.prefetch = 96;
  for (let i = 0; i < 50; i++) await call(p);
  return p;
}

async function served<T>(use: (path: string, state: () => Promise<ServerState>) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'viommu-load-'));
  const path = join(folder, 's');
  const server = await start('server-process', path);
  try {
    return await use(path, () => ask<ServerState>(server));
  } finally {
    await end(server);
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * The latency of a well-behaved client of a server with a hostile client, against the same of a server without, in turns, call
 * by call: what else the computer does is in both.
 * @param rounds of each kind, each with a hostile client of its own. @param count calls in a round.
 */
export function latencies(kinds: readonly HostileKind[], rounds: number, count: number): Promise<LatencyBeside[]> {
  return served((quiet) =>
    served(async (path) => {
      const [a, b] = [await goodClient(quiet), await goodClient(path)];
      const out: LatencyBeside[] = [];
      for (const kind of kinds) {
        const [alone, beside, ratios]: [number[], number[], number[]] = [[], [], []];
        for (let round = 0; round < rounds; round++) {
          const hostile = await start('hostile-client', kind, path);
          await new Promise((resolve) => setTimeout(resolve, 100));
          const times: [number[], number[]] = [[], []];
          for (let i = 0; i < count; i++) {
            times[0].push(await call(a));
            times[1].push(await call(b));
          }
          // It ends in the middle of whatever it does.
          await end(hostile);
          alone.push(median(times[0]));
          beside.push(median(times[1]));
          ratios.push(beside.at(-1)! / alone.at(-1)!);
        }
        out.push({ kind, alone: median(alone), beside: median(beside), ratio: median(ratios) });
      }
      return out;
    }),
  );
}

/** What became of a crowd. */
export interface CrowdResult {
  readonly clients: number;
  readonly killed: number;
  /** Calls of those that lived on. */
  readonly calls: number;
  /** Clients that lived on and were refused something. */
  readonly refused: number;
  /** What the first of them was told; empty: nobody was refused anything. */
  readonly why: string;
  /** What the server still has when everybody is gone: 0. */
  readonly left: number;
  /** Failures of the server itself: 0. */
  readonly broken: number;
}

/** Clients in several processes, of which random ones are killed with -9 while they call. */
export function crowd(clients: number, processes: number, milliseconds: number, seed: number): Promise<CrowdResult> {
  return served(async (path, state) => {
    const rnd = new Random(seed);
    const each = Math.ceil(clients / processes);
    const all = await Promise.all(Array.from({ length: processes }, () => start('crowd-process', path, String(each))));
    let killed = 0;
    const victims = all.filter((_, i) => i > 0 && rnd.chance(50));
    for (const v of victims) {
      await new Promise((resolve) => setTimeout(resolve, milliseconds / (victims.length + 1)));
      await end(v);
      killed += each;
    }
    await new Promise((resolve) => setTimeout(resolve, milliseconds / (victims.length + 1)));
    const alive = all.filter((c) => !victims.includes(c));
    const told = await Promise.all(alive.map((c) => ask<{ calls: number; failed: number; why: string }>(c)));
    for (const c of alive) await end(c);
    let s = await state();
    for (let i = 0; i < 200 && s.clients > 0; i++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      s = await state();
    }
    return {
      clients: each * processes,
      killed,
      calls: told.reduce((sum, t) => sum + t.calls, 0),
      refused: told.reduce((sum, t) => sum + t.failed, 0),
      why: told.find((t) => t.why !== '')?.why ?? '',
      left: s.clients + s.pendingBytes + s.sessions + s.pinned,
      broken: s.broken,
    };
  });
}
