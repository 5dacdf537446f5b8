import { ACCESS, AT, DMA, NO_PASID } from '../../src/ports/dma.ts';
import { ATS_CAP, EXT } from '../../src/spec/pcie/capabilities.ts';
import type { Checks } from './checks.ts';
import { ask } from './console.ts';
import type { Counter } from './counter.ts';
import { type LiveRun, NVME_DEVFN } from './session.ts';

/** An address no driver maps. */
export const ROGUE = 0xdead_0000;

/** What differs between the architectures. */
export interface Expected {
  readonly title: string;
  readonly ats: boolean;
  /** The driver's line about the stray access, and what must be in it. */
  readonly fault: { readonly line: RegExp; readonly has: RegExp };
  /** Command that carries a device-TLB invalidation, by its name in `tell`. */
  readonly atcCommand: string;
  /** Domain types to go through. */
  readonly types: readonly string[];
  /** Checks of the architecture's own, once the guest is up. */
  readonly own: (c: Checks, run: LiveRun, counter: Counter) => void;
}

/** A DMA write the driver never asked for, as a broken or hostile function would send it. */
export function rogue(run: LiveRun, rid: number = NVME_DEVFN): number {
  const { complex } = run.machine;
  const link = complex.link(complex.byRid(rid)!)!;
  const four = new Uint8Array(4);
  return run.outside(() => link.write(NO_PASID, ROGUE | 0, 0, ACCESS.WRITE, AT.UNTRANSLATED, four, 0, 4));
}

/** Everything a guest does with a disk behind a vIOMMU, each step checked in the guest and on the host. */
export async function scenario(
  c: Checks,
  run: LiveRun,
  counter: Counter,
  want: Expected,
  rid: number = NVME_DEVFN,
): Promise<void> {
  const { guest, nvme } = run;
  const verify = async (bs: string, bytes: number, where: string) => {
    const answer = await ask(guest, `verify ${bs} ${bytes}`, /^@@ verify/, 60_000);
    c.check(`data written and read in blocks of ${bs} is the same${where}`, answer.endsWith('ok'), answer);
  };
  process.stdout.write(`${want.title}\n`);
  const up = await guest.console.expect(/^@@ up/, 180_000);
  c.check('the driver probed the IOMMU and the disk came up in a DMA domain', /up DMA/.test(up), up);
  want.own(c, run, counter);
  await verify('4k', 4096, '');
  await verify('64k', 65_536, '');
  await verify('1M', 1_048_576, '');
  c.check('a stray DMA write is refused', rogue(run, rid) === DMA.ABORT);
  const event = await guest.console.expect(want.fault.line, 15_000);
  c.check('the driver decodes the fault', want.fault.has.test(event), event.trim());
  for (const type of want.types) {
    const answer = await ask(guest, `type ${type}`, /^@@ type/, 30_000);
    c.check(`domain type switched to ${type}`, answer.endsWith(type), answer);
    await verify('64k', 65_536, ` in a ${type} domain`);
  }
  c.check('removed and found again', (await ask(guest, 'rescan', /^@@ rescan/)).endsWith('ok'));
  await verify('4k', 4096, ' after that');
  const vfio = await ask(guest, 'vfio', /^@@ vfio driver/);
  c.check('vfio-pci takes the function', vfio.endsWith('vfio-pci'), vfio);
  c.check('and gives it back', (await ask(guest, 'unvfio', /^@@ unvfio/)).endsWith('ok'));
  if (want.ats) {
    const at = nvme.fn.config.findExtended(EXT.ATS);
    const on = (nvme.fn.config.get(at + ATS_CAP.CONTROL, 2) & ATS_CAP.ENABLE) !== 0;
    c.check('the driver enabled ATS in the function', on);
    c.check('the function used its ATC', nvme.fn.memory.hits > 100, nvme.fn.memory.hits);
    c.check('and dropped what the guest invalidated', nvme.fn.memory.atc.dropped > 0, nvme.fn.memory.atc.dropped);
    c.check(
      'device-TLB invalidations came from the guest',
      counter.command(want.atcCommand) > 0,
      counter.command(want.atcCommand),
    );
  }
  guest.send('off');
  const did = await run.finished();
  c.check('no handler failed', run.errors.length === 0, run.errors.map(String).join('; '));
  process.stdout.write(`    ${did}; ${counter.summary()}\n`);
}

/** Shows that the scenario can fail: with invalidations swallowed the guest's disk must not survive. */
export async function mustFail(c: Checks, run: LiveRun): Promise<void> {
  process.stdout.write('The same with invalidations withheld\n');
  let failed = '';
  try {
    const up = await run.guest.console.expect(/^@@ up/, 90_000);
    if (up.includes('without')) failed = up;
    for (let i = 0; i < 4 && failed === ''; i++) {
      const answer = await ask(run.guest, 'verify 4k 4096', /^@@ verify/, 40_000);
      if (!answer.endsWith('ok')) failed = answer;
    }
  } catch (e) {
    failed = (e as Error).message.split('\n')[0]!;
  }
  c.check('the guest fails', failed !== '', failed);
}

/** Runs the steps of a live program: closes every run, prints the closing line, sets the exit status. */
export async function runLive(
  name: string,
  c: Checks,
  steps: (verbose: <R extends Pick<LiveRun, 'guest'>>(run: R) => R) => Promise<void>,
): Promise<void> {
  const verbose = process.argv.includes('--verbose');
  try {
    await steps((run) => {
      if (verbose) run.guest.console.onLine = (line) => process.stdout.write(`    | ${line}\n`);
      return run;
    });
  } catch (e) {
    process.stderr.write(`${name}: ${(e as Error).message}\n`);
    c.failed++;
  }
  process.exitCode = c.finish();
}
