import { ACCESS, AT, DMA, NO_PASID } from '../../src/ports/dma.ts';
import { ATS_CAP, EXT } from '../../src/spec/pcie/capabilities.ts';
import { Checks } from './checks.ts';
import { ask } from './console.ts';
import { Counter } from './counter.ts';
import { ROGUE, runLive } from './scenario.ts';
import { bootAmd64Vfio, bootArm64Vfio } from './vfio-guests.ts';
import { type VfioRun, vfioDevice } from './vfio-machine.ts';

/** Reads of 4 KiB whose time is taken, and how often. */
const READS = 1000;
const ROUNDS = 3;

const only = process.argv.find((a) => a.startsWith('--only='))?.slice(7) ?? '';
const c = new Checks();
const costs: string[] = [];

const title = (text: string) => void process.stdout.write(`${text}\n`);

/** The guest comes up with a disk. @returns seconds it took. */
async function up(run: VfioRun, domain: RegExp, milliseconds = 240_000): Promise<number> {
  const start = Date.now();
  const line = await run.guest.console.expect(/^@@ up/, milliseconds);
  c.check('the guest has the disk, in the domain it should be in', domain.test(line), line);
  return (Date.now() - start) / 1000;
}

async function verify(run: VfioRun, where = ''): Promise<void> {
  for (const [bs, bytes] of [
    ['4k', 4096],
    ['64k', 65_536],
    ['1M', 1_048_576],
  ] as const) {
    const answer = await ask(run.guest, `verify ${bs} ${bytes}`, /^@@ verify/, 120_000);
    c.check(`data written and read in blocks of ${bs} is the same${where}`, answer.endsWith('ok'), answer);
  }
}

/** Prints what the run costs: reads a second, in the middle of three rounds. */
async function cost(run: VfioRun, name: string, boot: number): Promise<void> {
  const rates: number[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    const start = Date.now();
    await ask(run.guest, `reads ${READS}`, /^@@ reads/, 120_000);
    rates.push(READS / ((Date.now() - start) / 1000));
  }
  rates.sort((a, b) => a - b);
  costs.push(`${name}: boot ${boot.toFixed(1)} s, ${Math.round(rates[ROUNDS >> 1]!)} reads of 4 KiB a second`);
}

/** A DMA write that no driver asked for. */
function stray(run: VfioRun): number {
  const four = new Uint8Array(4);
  return run.nvme[0]!.fn.upstream!.write(NO_PASID, ROGUE | 0, 0, ACCESS.WRITE, AT.UNTRANSLATED, four, 0, 4);
}

/** Runs one scenario and ends its machine. */
async function on(boot: Promise<VfioRun>, steps: (run: VfioRun) => Promise<void>, verbose: (r: VfioRun) => VfioRun) {
  const run = verbose(await boot);
  await steps(run).finally(() => run.close());
}

type Verbose = (r: VfioRun) => VfioRun;

async function withoutVfio(verbose: Verbose): Promise<void> {
  title("amd64, QEMU's own NVMe, for comparison");
  const steps = async (run: VfioRun) => {
    const boot = await up(run, /up/);
    await verify(run);
    await cost(run, "QEMU's own NVMe", boot);
  };
  await on(bootAmd64Vfio({ iommu: 'none', functions: 0 }), steps, verbose);
}

async function plain(verbose: Verbose): Promise<void> {
  title('(a) amd64, our NVMe by vfio-pci, no vIOMMU');
  const counter = new Counter();
  const steps = async (run: VfioRun) => {
    const boot = await up(run, /up/);
    await verify(run);
    c.check('a stray DMA write is refused', stray(run) === DMA.ABORT);
    await cost(run, '(a)', boot);
    c.check('guest RAM is mapped into one IOAS', counter.verb('IOAS_ALLOC') === 1 && counter.verb('IOAS_MAP') > 0);
  };
  await on(bootAmd64Vfio({ iommu: 'none', tell: counter.tell }), steps, verbose);
}

async function firstStage(verbose: Verbose): Promise<void> {
  title('(b) amd64, intel-iommu with first-stage tables, nested through our VT-d');
  const counter = new Counter();
  const steps = async (run: VfioRun) => {
    const boot = await up(run, /up DMA/);
    await verify(run);
    c.check('a stray DMA write is refused', stray(run) === DMA.ABORT);
    for (const type of ['identity', 'DMA-FQ']) {
      const answer = await ask(run.guest, `type ${type}`, /^@@ type/, 60_000);
      c.check(`domain type switched to ${type}`, answer.endsWith(type), answer);
      await verify(run, ` in a ${type} domain`);
    }
    await cost(run, '(b)', boot);
    const sent = counter.verb('HWPT_INVALIDATE');
    c.check("the guest's invalidations reach the hardware", sent > 0, sent);
  };
  await on(bootAmd64Vfio({ iommu: 'first-stage', memfd: true, tell: counter.tell }), steps, verbose);
}

/** With invalidations lost in the hardware the disk must not survive. */
async function mustFailVfio(boot: Promise<VfioRun>, verbose: Verbose): Promise<void> {
  title('The same with invalidations withheld');
  const steps = async (run: VfioRun) => {
    let failed = '';
    try {
      const line = await run.guest.console.expect(/^@@ up/, 150_000);
      if (/without/.test(line)) failed = line;
      for (let i = 0; i < 4 && failed === ''; i++) {
        const answer = await ask(run.guest, 'verify 4k 4096', /^@@ verify/, 40_000);
        if (!answer.endsWith('ok')) failed = answer;
      }
    } catch (e) {
      failed = (e as Error).message.split('\n')[0]!;
    }
    c.check('the guest fails', failed !== '', failed);
  };
  await on(boot, steps, verbose);
}

async function cachingMode(verbose: Verbose): Promise<void> {
  title('(c) amd64, intel-iommu in legacy mode: every mapping of the guest is mapped by QEMU');
  const counter = new Counter();
  const steps = async (run: VfioRun) => {
    const boot = await up(run, /up DMA/);
    await verify(run);
    c.check('a stray DMA write is refused', stray(run) === DMA.ABORT);
    await cost(run, '(c)', boot);
    const maps = counter.verb('IOAS_MAP') + counter.verb('IOAS_MAP_FILE');
    c.check("the guest's mappings are mapped and unmapped", maps > 500 && counter.verb('IOAS_UNMAP') > 500, maps);
  };
  await on(bootAmd64Vfio({ iommu: 'caching-mode', memfd: true, tell: counter.tell }), steps, verbose);
}

async function smmu(verbose: Verbose): Promise<void> {
  title('(d) arm64, arm-smmuv3,accel=on with ATS, nested through our SMMUv3');
  const counter = new Counter();
  const steps = async (run: VfioRun) => {
    const boot = await up(run, /up DMA/);
    await verify(run);
    const { config, memory } = run.nvme[0]!.fn;
    const on = (config.get(config.findExtended(EXT.ATS) + ATS_CAP.CONTROL, 2) & ATS_CAP.ENABLE) !== 0;
    c.check('the host enabled ATS in the function, as the stream table entry says', on);
    c.check(
      'the function used its translation cache, and dropped what it was told',
      memory.hits > 100 && memory.atc.dropped > 0,
    );
    c.check('a stray DMA write is refused', stray(run) === DMA.ABORT);
    const event = await run.guest.console.expect(/event: F_/, 15_000);
    c.check("the guest's driver decodes the event", /F_TRANSLATION.*iova: 0xdead0000/.test(event), event.trim());
    await cost(run, '(d)', boot);
    c.check(
      'a vIOMMU, a vDEVICE, a vEVENTQ',
      ['VIOMMU', 'VDEVICE', 'VEVENTQ'].every((o) => counter.verb(`${o}_ALLOC`) > 0),
    );
    const sent = counter.verb('HWPT_INVALIDATE');
    c.check("the guest's invalidations reach the hardware", sent > 0, sent);
  };
  await on(bootArm64Vfio({ ats: true, tell: counter.tell }), steps, verbose);
}

async function comings(verbose: Verbose): Promise<void> {
  title('(e) amd64, two functions that come and go, and a guest that reboots');
  const steps = async (run: VfioRun) => {
    const { guest, qmp, server } = run;
    await up(run, /up/);
    // Which of them is called the first is a matter of who is quicker.
    await verify(run, ' on a disk');
    const second = await ask(guest, 'disk nvme1n1', /^@@ disk /, 30_000);
    c.check('and there is another one', second.endsWith('nvme1n1'), second);
    await verify(run, ' on it');
    await qmp.run('device_del', { id: 'v1' });
    c.check('the guest lets the second go', await qmp.event('DEVICE_DELETED', 'v1', 60_000));
    const left = /\/(nvme\dn1)$/.exec(await ask(guest, 'disks', /^@@ disks/))?.[1] ?? '';
    c.check('  and keeps one', (await ask(guest, `disk ${left}`, /^@@ disk /)).endsWith(left), left);
    await verify(run, ' on that');
    const [, driver, ...rest] = /^([^,]*),(.*)$/.exec(vfioDevice(1, 'bus=rp2'))!;
    await qmp.run('device_add', {
      driver,
      ...Object.fromEntries(rest[0]!.split(',').map((p) => p.split('=') as [string, string])),
    });
    const other = left === 'nvme0n1' ? 'nvme1n1' : 'nvme0n1';
    const back = await ask(guest, `disk ${other}`, /^@@ disk /, 30_000);
    c.check('the other one comes back while the guest runs', back.includes(`${other}`) && !/failed/.test(back), back);
    await verify(run, ' on it');
    c.check('the host asks for it', server.askBack('vfio1'));
    c.check('  and QEMU takes it out', await qmp.event('DEVICE_DELETED', 'v1', 60_000));
    guest.send('reboot');
    await guest.console.expect(/^@@ reboot/);
    await up(run, /up/);
    await verify(run, ' after a reboot');
    await qmp.run('system_reset');
    await up(run, /up/);
    await verify(run, ' after a reset in the middle');
  };
  await on(bootAmd64Vfio({ iommu: 'none', functions: 2 }), steps, verbose);
}

await runLive('live:qemu-vfio', c, async (verbose) => {
  const look: Verbose = (run) => {
    verbose(run);
    return run;
  };
  const scenarios: readonly (readonly [string, () => Promise<void>])[] = [
    ['baseline', () => withoutVfio(look)],
    ['a', () => plain(look)],
    ['b', () => firstStage(look)],
    ['b-deaf', () => mustFailVfio(bootAmd64Vfio({ iommu: 'first-stage', deaf: true }), look)],
    ['c', () => cachingMode(look)],
    ['d', () => smmu(look)],
    ['d-deaf', () => mustFailVfio(bootArm64Vfio({ ats: true, deaf: true }), look)],
    ['e', () => comings(look)],
  ];
  for (const [name, run] of scenarios) if (only === '' || only.split(',').includes(name)) await run();
  for (const line of costs) process.stdout.write(`${line}\n`);
});
