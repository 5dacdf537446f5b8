import type { Random } from '../../oracle/random.ts';
import { dearest } from '../dearest.ts';
import type { GuestSteps } from '../guests/guest.ts';
import { Finding, type FuzzInput, type FuzzTarget, type Step } from '../target.ts';
import { guestOf, LINES, placesOf, World } from '../world.ts';

/** Milliseconds of the processor that no single access may take. */
export const DEAREST_MS = 20;
/** Those from which on an access is played again, to see what of it was the compiler's or the collector's. */
const SUSPECT_MS = 4;

function configOf(rnd: Random, timed: number): FuzzInput['config'] {
  const line = rnd.pick(LINES);
  return { line, profile: rnd.chance(50) ? 'arch' : 'qemu-11.1', timed, fill: rnd.next() };
}

/** Something to aim DMA at: RAM, or registers of the IOMMU, of the engines, of the board. */
function anywhere(rnd: Random, line: string): number {
  const p = placesOf(line);
  const what = rnd.below(100);
  if (what < 40) return p.ram + (rnd.below(p.bytes) & ~3);
  if (what < 60) return p.iommu + (rnd.below(rnd.chance(80) ? 0x240 : 0x2_0000) & ~3);
  // HEAD, TAIL, CONTROL … of the engines, their MSI-X tables.
  if (what < 85) return p.bars + rnd.below(2) * 0x10_0000 + (rnd.below(rnd.chance(80) ? 0x40 : 0x1000) & ~3);
  if (line.includes('virt')) return rnd.pick([0x0809_0040, 0x0800_0000, 0x3eff_0000, 0x40_1000_0000, 0x900_0000]);
  return rnd.pick([0xfee0_0000 + (rnd.below(0x1000) << 4), 0xfec0_0000, 0xb000_0000 + (0x10 << 12), 0xfed0_0000]);
}

function dma(rnd: Random, line: string): Step {
  const p = placesOf(line);
  const lo = rnd.chance(70) ? p.ram + rnd.below(p.bytes) : rnd.chance(50) ? anywhere(rnd, line) : rnd.next();
  const pasid = rnd.chance(75) ? -1 : rnd.below(4);
  return [
    'd',
    rnd.below(2),
    pasid,
    lo | 0,
    rnd.chance(92) ? 0 : rnd.next() | 0,
    1 + rnd.below(3),
    rnd.chance(5) ? 2 : 0,
  ];
}

function work(rnd: Random, line: string): Step {
  const bytes = rnd.chance(80) ? 4 : rnd.chance(90) ? 1 + rnd.below(0x3000) : rnd.next() >>> 10;
  const pasid = rnd.chance(80) ? -1 : rnd.below(4);
  const done = rnd.chance(50) ? 0 : anywhere(rnd, line);
  const to = anywhere(rnd, line);
  const from = anywhere(rnd, line);
  return ['e', rnd.below(2), rnd.below(4), to | 0, 0, from | 0, bytes, pasid, rnd.chance(30) ? 1 : 0, done | 0];
}

/** What a target's guest does: each action in how many of a hundred cases. */
export interface Mix {
  readonly dma: number;
  readonly work: number;
  readonly table: number;
  readonly command: number;
  readonly register: number;
  readonly completion: number;
  readonly time: number;
  /** Large queues, self-similar tables, sweeps of accesses, virtual functions (default: none). */
  readonly flood?: number;
}

function act(rnd: Random, line: string, guest: GuestSteps, mix: Mix): Step[] {
  let what = rnd.below(100);
  const is = (share: number): boolean => {
    what -= share;
    return what < 0;
  };
  if (is(mix.dma)) return [dma(rnd, line)];
  if (is(mix.work)) return [work(rnd, line)];
  if (is(mix.table)) return guest.table();
  if (is(mix.command)) return guest.command();
  if (is(mix.register)) return guest.register();
  if (is(mix.completion)) return guest.completion(anywhere(rnd, line) >>> 0);
  if (is(mix.time)) return [['t', rnd.below(300)]];
  if (is(mix.flood ?? 0)) return rnd.chance(90) ? guest.flood() : [['vf', rnd.below(260), rnd.below(2)]];
  if (rnd.chance(10)) return [['p', rnd.below(2), rnd.below(3) - 1, rnd.next() | 0, 0, rnd.below(512), rnd.below(2)]];
  if (rnd.chance(10)) return [['c', rnd.below(2), rnd.next() | 0, rnd.below(8)]];
  return rnd.chance(5) ? [['reset']] : guest.enable();
}

/** Steps of a guest on a board that begin with switching its IOMMU on. */
export function actionsOf(rnd: Random, line: string, length: number, mix: Mix): Step[] {
  const guest = guestOf(line, rnd);
  const steps = guest.enable();
  while (steps.length < length) steps.push(...act(rnd, line, guest, mix));
  return steps;
}

/** An input of a mix of actions. */
export function stepsOf(rnd: Random, length: number, mix: Mix, timed = rnd.below(2)): FuzzInput {
  const config = configOf(rnd, timed);
  return { config, steps: actionsOf(rnd, String(config.line), length, mix) };
}

/** Queues, tables and DMA without a plan. */
export const QUEUES: Mix = { dma: 25, work: 5, table: 20, command: 35, register: 5, completion: 3, time: 3 };
/** Whatever can be aimed at registers is. */
export const TO_REGISTERS: Mix = { dma: 15, work: 35, table: 5, command: 10, register: 5, completion: 20, time: 8 };
const REGISTERS: Mix = { dma: 0, work: 0, table: 0, command: 0, register: 100, completion: 0, time: 0 };

/** Whatever is large. */
export const FLOODS: Mix = { dma: 20, work: 5, table: 18, command: 32, register: 5, completion: 3, time: 3, flood: 10 };

function play(input: FuzzInput, world: World): World {
  for (const s of input.steps) world.step(s);
  world.check();
  return world;
}

/** Runs an input on a machine; nothing may throw, leave its memory or be dear. */
function runMachine(input: FuzzInput, plant: Parameters<FuzzTarget['run']>[1], suspect: number): { cost: number } {
  const { ms, at } = dearest(suspect, (hear) => {
    const world = new World(input, plant);
    for (const s of input.steps) if (hear(world.timed(s))) return;
    world.check();
  });
  if (ms > DEAREST_MS) throw new Finding(`one access took ${ms.toFixed(1)} ms\n${JSON.stringify(input.steps[at])}`);
  return { cost: ms };
}

/** Queues and tables without a plan. */
export const queuesTarget: FuzzTarget = {
  name: 'queues',
  summary: 'commands, tables, page requests and DMA without a plan: nothing throws, hangs, or reaches another VM',
  length: 400,
  generate: (rnd, length) => stepsOf(rnd, length, QUEUES),
  run: (input, plant) => runMachine(input, plant, DEAREST_MS),
};

/** DMA, completions and queues aimed at registers. */
export const dmaTarget: FuzzTarget = {
  name: 'dma',
  summary: 'engines, waits and queues aimed at registers of every device, their own too: no circles, nothing throws',
  length: 300,
  generate: (rnd, length) => stepsOf(rnd, length, TO_REGISTERS),
  run: (input, plant) => runMachine(input, plant, DEAREST_MS),
};

/** Registers, straight on and through a saved state. */
export const registersTarget: FuzzTarget = {
  name: 'registers',
  summary: 'register accesses of any size: a machine that is saved and loaded in the middle reads as one that goes on',
  length: 120,
  generate(rnd, length) {
    const input = stepsOf(rnd, length, REGISTERS, 0);
    return { ...input, config: { ...input.config, at: rnd.below(length) } };
  },
  run(input, plant) {
    const straight = play(input, new World(input, plant));
    const at = Number(input.config.at);
    let world = new World(input, (_seam, real) => real);
    const seen: number[] = [];
    for (const [i, s] of input.steps.entries()) {
      if (i === at) {
        const next = new World(input, (_seam, real) => real);
        for (const [n, { backing }] of world.machine.vm!.memory.guest.ram().entries())
          next.machine.vm!.memory.guest.ram()[n]!.backing.words().set(backing.words());
        next.machine.load(JSON.parse(JSON.stringify(world.machine.save())) as ReturnType<typeof world.machine.save>);
        seen.push(...world.seen);
        world = next;
      }
      world.step(s);
    }
    seen.push(...world.seen);
    const n = straight.seen.findIndex((v, i) => v !== seen[i]);
    if (n < 0) return {};
    const read = input.steps.filter((s) => s[0] === 'r')[n >> 1]!;
    const offset = (Number(read[1]) - placesOf(String(input.config.line)).iommu).toString(16);
    const values = `${straight.seen[n]!.toString(16)} straight on, ${seen[n]?.toString(16)} after loading`;
    throw new Finding(`a saved machine reads differently\nregister ${offset}: ${values}`);
  },
};

/** A search for the dearest access. */
export const costTarget: FuzzTarget = {
  name: 'cost',
  summary: `climbs towards the input with the dearest single access; more than ${DEAREST_MS} ms of the processor is a finding`,
  length: 300,
  generate: (rnd, length) => stepsOf(rnd, length, FLOODS),
  run: (input, plant) => runMachine(input, plant, SUSPECT_MS),
  mutate(input, rnd) {
    const line = String(input.config.line);
    const guest = guestOf(line, rnd);
    const steps = [...input.steps];
    for (let n = 1 + rnd.below(4); n > 0; n--) {
      const at = rnd.below(steps.length + 1);
      const what = rnd.below(4);
      if (what === 0) steps.splice(at, 1 + rnd.below(8));
      else if (what === 1) steps.splice(at, 0, ...steps.slice(at, at + 1 + rnd.below(30)));
      else steps.splice(at, 0, ...act(rnd, line, guest, FLOODS));
    }
    const config = rnd.chance(5) ? { ...input.config, fill: rnd.next() } : input.config;
    return { config, steps: steps.slice(0, 2000) };
  },
};

/** Internal steps fail by chance. */
export const failuresTarget: FuzzTarget = {
  name: 'failures',
  summary:
    'the same guests while internal steps of the host and its hardware fail: nothing throws, and a reset mends all',
  length: 250,
  generate(rnd, length) {
    const input = stepsOf(rnd, length, QUEUES);
    return { ...input, config: { ...input.config, seed: rnd.next() >>> 1, share: rnd.pick([1, 5, 20]) } };
  },
  run(input, plant) {
    const share = Number(input.config.share) / 100;
    const failures = {
      seed: Number(input.config.seed),
      memory: share,
      ids: share,
      commands: share,
      fetches: share / 4,
      queues: share,
      lostCompletions: share,
      lateCompletions: share,
      doubledCompletions: share,
    };
    const world = new World(input, plant, { failures });
    for (const s of input.steps) world.step(s);
    world.machine.vm!.failures!.on = false;
    world.check();
    world.step(['reset']);
    world.step(['t', 120_000_000_000]);
    // Registers that keep their value over a reset keep it whatever failed.
    const fresh = new World(input, (_seam, real) => real);
    for (const s of input.steps) if (s[0] !== 'r') fresh.step(s);
    fresh.seen.length = 0;
    fresh.step(['reset']);
    fresh.step(['t', 120_000_000_000]);
    const { iommu } = placesOf(String(input.config.line));
    for (let at = 0; at < 0x240; at += 4) for (const w of [world, fresh]) w.step(['r', iommu + at, 4]);
    const [a, b] = [world.seen.slice(-fresh.seen.length), fresh.seen];
    const n = a.findIndex((v, i) => v !== b[i]);
    if (n >= 0) throw new Finding(`a reset leaves something of a failure\nregister ${((n >> 1) * 4).toString(16)}`);
    return {};
  },
};
