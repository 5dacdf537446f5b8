import { type VtdProperties, vtdDefaults } from '../../devices/vtd/properties.ts';
import { ViommuError } from '../../src/core/errors.ts';
import { ask } from '../live/console.ts';
import { bootV86, built, type Kernel } from './boot.ts';
import type { V86Run } from './start.ts';

/** Interleaved runs of each kind; the median counts. */
const RUNS = 9;
const READS = 4000;
/** First-stage translation nests: hardware walks the guest's own tables, in the one copy of guest RAM there is. */
const PROPS: VtdProperties = {
  ...vtdDefaults('qemu-11.1'),
  intremap: false,
  deviceIotlb: true,
  scalableMode: true,
  fsts: true,
  pageWalkCoherency: true,
};
const APPEND = 'intel_iommu=sm_on';
const BOOT_LIMIT = 1.3;
const READ_LIMIT = 1.2;

interface Cost {
  /** Guest instructions. */
  readonly instructions: number;
  /** CPU microseconds of this process, the emulator's part included. */
  readonly cpu: number;
}

/** What passes in the guest and in this process while `action` runs. */
async function costOf(run: V86Run, action: () => Promise<unknown>): Promise<Cost> {
  const { emulator } = run;
  const [count, cpu] = [emulator.get_instruction_counter(), process.cpuUsage()];
  await action();
  const { user, system } = process.cpuUsage(cpu);
  // The counter has 32 bits.
  return { instructions: (emulator.get_instruction_counter() - count) >>> 0, cpu: user + system };
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1]!;
}

function medians(costs: readonly Cost[]): Cost {
  return { instructions: median(costs.map((c) => c.instructions)), cpu: median(costs.map((c) => c.cpu)) };
}

function print(what: string, c: Cost, per: number, base: Cost | null): void {
  const n = (v: number) =>
    Math.round(v / per)
      .toLocaleString('en-US')
      .padStart(14);
  const ratio = (a: number, b: number) => `${(a / b).toFixed(3)}x`.padStart(9);
  const ratios = base === null ? '' : `${ratio(c.instructions, base.instructions)}${ratio(c.cpu, base.cpu)}`;
  process.stdout.write(`  ${what.padEnd(34)}${n(c.instructions)}${n(c.cpu)}${ratios}\n`);
}

const HEAD = ['instructions', 'CPU µs', 'ratio', 'ratio'];
function heading(title: string): void {
  process.stdout.write(
    `${title.padEnd(36)}${HEAD[0]!.padStart(14)}${HEAD[1]!.padStart(14)}${HEAD[2]!.padStart(9)}${HEAD[3]!.padStart(9)}\n`,
  );
}

/** Boot to the shell script's first word, with and without the vIOMMU. @returns the ratio of instructions. */
async function boots(): Promise<number> {
  const costs: Record<'bare' | 'unit', Cost[]> = { bare: [], unit: [] };
  for (let i = 0; i < 2 * RUNS; i++) {
    const kind = i % 2 === 0 ? 'bare' : 'unit';
    const before = process.cpuUsage();
    const run = await bootV86({ props: PROPS, append: APPEND, bare: kind === 'bare', tell: null });
    try {
      await run.guest.console.expect(/^@@ up/, 300_000);
      const { user, system } = process.cpuUsage(before);
      costs[kind].push({ instructions: run.emulator.get_instruction_counter() >>> 0, cpu: user + system });
    } finally {
      await run.close();
    }
  }
  const [bare, unit] = [medians(costs.bare), medians(costs.unit)];
  heading(`Boot to a shell, ${RUNS} runs each`);
  print('without a vIOMMU', bare, 1, null);
  print('with the vVT-d', unit, 1, bare);
  return unit.instructions / bare.instructions;
}

/**
 * Random reads in the domain types of one running guest. Mapping and unmapping is Linux's own work and is all that shows in
 * its instructions; what device and IOMMU cost shows in CPU time only, where the emulator's compiler shows more.
 * @returns the instructions of DMA-FQ, distributions' default, as a multiple of identity.
 * @throws ViommuError `EIO` when the program fails, or the function went round its ATC.
 */
async function reads(kernel: Kernel): Promise<number> {
  const program = built('reads', ' -- guest');
  const run = await bootV86({ kernel, props: PROPS, append: APPEND, tell: null, extra: { reads: program } });
  const costs: Record<'identity' | 'DMA-FQ' | 'DMA', Cost[]> = { identity: [], 'DMA-FQ': [], DMA: [] };
  try {
    await run.guest.console.expect(/^@@ up/, 300_000);
    for (let i = 0; i < RUNS; i++) {
      for (const type of ['identity', 'DMA-FQ', 'DMA'] as const) {
        await ask(run.guest, `type ${type}`, /^@@ type/, 120_000);
        const read = async () => {
          const answer = await ask(run.guest, `run reads ${READS}`, /^@@ run reads/, 300_000);
          if (!answer.endsWith('ended 0')) throw new ViommuError('EIO', 'guest', answer);
        };
        await read();
        const { atc } = run.nvme.fn.memory;
        const { dropped } = atc;
        costs[type].push(await costOf(run, read));
        if (type !== 'identity' && atc.dropped === dropped) {
          throw new ViommuError('EIO', 'guest', `no translation came and went in the ATC of a ${type} domain`);
        }
      }
    }
  } finally {
    await run.close();
  }
  heading(`Linux ${kernel}: 4 KiB reads, ${RUNS} x ${READS}`);
  const base = medians(costs.identity);
  print('identity (pass-through)', base, READS, null);
  print('DMA-FQ, ATS', medians(costs['DMA-FQ']), READS, base);
  print('DMA (strict), ATS', medians(costs.DMA), READS, base);
  return medians(costs['DMA-FQ']).instructions / base.instructions;
}

try {
  const verdict = (what: string, is: number, limit: number): boolean => {
    const ok = is <= limit;
    process.stdout.write(`${ok ? 'ok  ' : 'FAIL'} ${what} ${is.toFixed(3)}x (at most ${limit}x)\n`);
    return ok;
  };
  const boot = await boots();
  const kernels = ['6.1', '7.2'] as const;
  const costs: number[] = [];
  for (const kernel of kernels) costs.push(await reads(kernel));
  let ok = verdict('instructions of a boot with a vIOMMU', boot, BOOT_LIMIT);
  for (const [i, kernel] of kernels.entries()) {
    ok =
      verdict(`instructions of a random read through the vVT-d, ATS on, Linux ${kernel}`, costs[i]!, READ_LIMIT) && ok;
  }
  process.exitCode = ok ? 0 : 1;
} catch (e) {
  process.stderr.write(`bench:live: ${(e as Error).message}\n`);
  process.exitCode = 1;
}
