import { ACCESS, AT, DMA, NO_PASID } from '../../src/ports/dma.ts';
import type { Said } from '../../src/ports/tell.ts';
import { ATS_CAP, EXT } from '../../src/spec/pcie/capabilities.ts';
import { type ArmOptions, type ArmRun, bootArm } from './arm64-machine.ts';
import { Checks } from './checks.ts';

/** An address no driver maps. */
const ROGUE = 0xdead_0000;

/** Counts what the machine says it does. */
class Counter {
  readonly commands = new Map<string, number>();
  readonly host = new Map<string, number>();
  readonly tell = (said: Said) => {
    if (said.what === 'command') this.commands.set(said.name, (this.commands.get(said.name) ?? 0) + 1);
    if (said.what === 'host') this.host.set(said.verb, (this.host.get(said.verb) ?? 0) + 1);
  };
  command(name: string): number {
    return this.commands.get(`SMMU_CMD_${name}`) ?? 0;
  }
  verb(name: string): number {
    return this.host.get(name) ?? 0;
  }
}

const verbose = process.argv.includes('--verbose');

async function boot(options: ArmOptions): Promise<ArmRun & { counter: Counter }> {
  const counter = new Counter();
  const run = await bootArm({ ...options, tell: counter.tell });
  if (verbose) run.guest.onLine = (line) => process.stdout.write(`    | ${line}\n`);
  return Object.assign(run, { counter });
}

/** A DMA write the driver never asked for, as a broken or hostile function would send it. */
function rogue(run: ArmRun): number {
  const slot = run.live.machine.complex.byRid(8)!;
  const link = run.live.machine.complex.link(slot)!;
  const four = new Uint8Array(4);
  return run.live.outside(() => link.write(NO_PASID, ROGUE | 0, 0, ACCESS.WRITE, AT.UNTRANSLATED, four, 0, 4));
}

async function scenario(c: Checks, ats: boolean): Promise<void> {
  process.stdout.write(`Linux on arm64, our SMMUv3, NVMe ${ats ? 'with' : 'without'} ATS\n`);
  const run = await boot({ ats });
  const { guest, counter, nvme, unit } = run;
  try {
    const up = await guest.expect(/^@@ up/, 120_000);
    c.check('the driver probed the SMMU and the disk came up in a DMA domain', /DMA/.test(up), up);
    c.check('a two-level stream table', unit.device.read(0x88, 4) >>> 16 === 1);
    for (const [bs, n] of [
      ['4k', 4096],
      ['64k', 65536],
      ['1M', 1048576],
    ] as const) {
      const answer = await guest.ask(`verify ${bs} ${n}`, /^@@ verify/, 60_000);
      c.check(`data written and read in blocks of ${bs} is the same`, answer.endsWith('ok'), answer);
    }
    c.check(
      'every stream of the guest that translates has a nested HWPT on the host',
      counter.verb('HWPT_ALLOC') > 0,
      counter.verb('HWPT_ALLOC'),
    );
    c.check('one vDEVICE for the one function', counter.verb('VDEVICE_ALLOC') === 1, counter.verb('VDEVICE_ALLOC'));
    c.check('TLB invalidations were forwarded', counter.verb('HWPT_INVALIDATE') > 10, counter.verb('HWPT_INVALIDATE'));
    const refused = rogue(run);
    c.check('a stray DMA write is refused', refused === DMA.ABORT);
    const event = await guest.expect(/event: F_/, 10_000);
    c.check('the driver decodes the event', /F_TRANSLATION/.test(event) && /sid: 0x8/.test(event), event.trim());
    for (const type of ['DMA-FQ', 'identity', 'DMA']) {
      const answer = await guest.ask(`type ${type}`, /^@@ type/, 30_000);
      c.check(`domain type switched to ${type}`, answer.endsWith(type), answer);
      const verified = await guest.ask('verify 64k 65536', /^@@ verify/, 60_000);
      c.check(`data is right in a ${type} domain`, verified.endsWith('ok'), verified);
    }
    c.check('removed and found again', (await guest.ask('rescan', /^@@ rescan/)).endsWith('ok'));
    c.check('data is right after that', (await guest.ask('verify 4k 4096', /^@@ verify/, 60_000)).endsWith('ok'));
    const vfio = await guest.ask('vfio', /^@@ vfio driver/);
    c.check('vfio-pci takes the function', vfio.endsWith('vfio-pci'), vfio);
    c.check('and gives it back', (await guest.ask('unvfio', /^@@ unvfio/)).endsWith('ok'));
    if (ats) {
      const at = nvme.fn.config.findExtended(EXT.ATS);
      c.check(
        'the driver enabled ATS in the function',
        (nvme.fn.config.get(at + ATS_CAP.CONTROL, 2) & ATS_CAP.ENABLE) !== 0,
      );
      c.check('the function used its ATC', nvme.fn.memory.hits > 100, nvme.fn.memory.hits);
      c.check('and dropped what CMD_ATC_INV named', nvme.fn.memory.atc.dropped > 0, nvme.fn.memory.atc.dropped);
      c.check('ATC invalidations came from the guest', counter.command('ATC_INV') > 0, counter.command('ATC_INV'));
    }
    guest.send('off');
    await guest.ended();
    c.check('no handler failed', run.live.errors.length === 0, run.live.errors.map(String).join('; '));
    process.stdout.write(
      `    ${run.live.trap.count} trapped stores, ${[...counter.commands].map(([k, v]) => `${k.replace('SMMU_CMD_', '')} ${v}`).join(', ')}\n`,
    );
  } finally {
    await run.close();
  }
}

/** The test that the test bites: with invalidations swallowed the guest's disk must not survive. */
async function deaf(c: Checks): Promise<void> {
  process.stdout.write('The same with invalidations withheld\n');
  const run = await boot({ ats: false, deaf: true });
  try {
    let failed = '';
    try {
      const up = await run.guest.expect(/^@@ up/, 60_000);
      if (up.includes('without')) failed = up;
      for (let i = 0; i < 3 && failed === ''; i++) {
        const answer = await run.guest.ask('verify 4k 4096', /^@@ verify/, 30_000);
        if (!answer.endsWith('ok')) failed = answer;
      }
    } catch (e) {
      failed = (e as Error).message.split('\n')[0]!;
    }
    c.check('the guest fails', failed !== '', failed);
  } finally {
    await run.close();
  }
}

const checks = new Checks();
try {
  await scenario(checks, false);
  await scenario(checks, true);
  await deaf(checks);
} catch (e) {
  process.stderr.write(`live:arm64: ${(e as Error).message}\n`);
  checks.failed++;
}
process.exitCode = checks.finish();
