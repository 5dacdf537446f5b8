import { type VtdProperties, vtdProperties } from '../../devices/vtd/properties.ts';
import { parseQemuArgs } from '../../src/lib/qemu-args/qemu-args.ts';
import { DMA } from '../../src/ports/dma.ts';
import { PAGE } from '../../src/spec/vtd/registers.ts';
import type { Checks } from '../live/checks.ts';
import { ask } from '../live/console.ts';
import { recorderFor, saveRecording } from '../live/recording.ts';
import { rogue } from '../live/scenario.ts';
import type { Watch } from './beside.ts';
import { bootV86 } from './boot.ts';
import { Journal } from './journal.ts';
import { machineWith, recordingOf } from './recorded.ts';
import type { V86Run } from './start.ts';

function unit(cmdline: string): VtdProperties {
  return vtdProperties(parseQemuArgs(cmdline))!;
}

export async function verify(c: Checks, run: V86Run, bs: string, bytes: number, where = ''): Promise<void> {
  const answer = await ask(run.guest, `verify ${bs} ${bytes}`, /^@@ verify/, 120_000);
  c.check(`data written and read in blocks of ${bs} is the same${where}`, answer.endsWith('ok'), answer);
}

async function fault(c: Checks, run: V86Run): Promise<void> {
  c.check('a stray DMA write is refused', rogue(run, run.rid) === DMA.ABORT);
  const line = await run.guest.console.expect(/DMAR: \[DMA Write/, 30_000);
  c.check('the driver decodes the fault', /00:10\.0.*dead0000/.test(line), line.trim());
}

async function rebind(c: Checks, run: V86Run, journal: Journal): Promise<void> {
  const before = journal.host.length;
  await ask(run.guest, 'unbind', /^@@ unbound/, 60_000);
  const unbound = journal.host.slice(before);
  const refused = rogue(run, run.rid);
  const back = await ask(run.guest, 'bind', /^@@ b/, 60_000);
  c.check('unbound and bound again', back.endsWith('bound'), back);
  c.check(
    'host operations meanwhile succeeded',
    unbound.every((h) => h.result === 0),
    unbound.length,
  );
  c.check('the unbound function reaches nothing of the driver', refused !== DMA.OK);
  await verify(c, run, '4k', 4096, ' after that');
}

export async function off(c: Checks, run: V86Run, journal: Journal): Promise<void> {
  run.guest.send('off');
  const did = await run.finished();
  c.check('no handler failed', run.errors.length === 0, run.errors.map(String).join('; '));
  process.stdout.write(`    ${did}; ${journal.counter.summary()}\n`);
}

/** No invalidation queue: the driver invalidates through CCMD and the IOTLB registers. */
export async function registerBased(c: Checks, watch: Watch): Promise<void> {
  process.stdout.write('Linux 6.1 in v86, a unit without an invalidation queue\n');
  const cmdline = machineWith('x-queued-invalidation=off');
  const journal = new Journal();
  const record = recorderFor('vtd');
  const requests = { context: 0, iotlb: 0, queue: 0 };
  journal.onSaid = (said) => {
    if (said.what !== 'reg.write') return;
    const high = Number(said.value >> (said.size === 8 ? 32n : 0n)) >>> 0;
    if (said.offset === PAGE.CCMD.at + 4 && high >>> 31 === 1) requests.context++;
    if (said.offset === PAGE.IOTLB.at + 4 && high >>> 31 === 1) requests.iotlb++;
    if (said.offset === PAGE.IQT.at) requests.queue++;
  };
  const run = watch.run(await bootV86({ props: unit(cmdline), record, tell: watch.tell(journal.tell) }));
  try {
    const up = await run.guest.console.expect(/^@@ up/, 300_000);
    c.check('the driver probed the IOMMU and the disk came up in a DMA domain', /up DMA/.test(up), up);
    await verify(c, run, '4k', 4096);
    await verify(c, run, '64k', 65_536);
    c.check('IOTLB requests through the register', requests.iotlb > 100, requests.iotlb);
    c.check('the queue was never touched', requests.queue === 0, requests.queue);
    await fault(c, run);
    for (const to of ['identity', 'DMA']) {
      const type = await ask(run.guest, `type ${to}`, /^@@ type/, 60_000);
      c.check(`domain type switched to ${to}`, type.endsWith(`type ${to}`), type);
      await verify(c, run, '64k', 65_536, ` in a ${to} domain`);
    }
    c.check('context-cache requests through CCMD', requests.context > 0, requests.context);
    await rebind(c, run, journal);
    await off(c, run, journal);
  } finally {
    await run.close();
  }
  saveRecording(record, 'vtd-v86-registers', recordingOf(cmdline, 'register-based invalidation', run));
}

/** `iommu=pt`: the function works in an identity domain, which is one attach on the host and not a page of mapping. */
export async function passThrough(c: Checks, watch: Watch): Promise<void> {
  process.stdout.write('Linux 6.1 in v86, iommu=pt\n');
  const cmdline = machineWith('device-iotlb=on');
  const journal = new Journal();
  const record = recorderFor('vtd');
  const run = watch.run(
    await bootV86({ props: unit(cmdline), record, append: 'iommu=pt', tell: watch.tell(journal.tell) }),
  );
  try {
    const up = await run.guest.console.expect(/^@@ up/, 300_000);
    c.check('the disk came up in an identity domain', /up identity/.test(up), up);
    const { length } = journal.host;
    await verify(c, run, '4k', 4096);
    await verify(c, run, '1M', 1_048_576);
    c.check('the host does nothing while the disk works', journal.host.length === length, journal.host.length - length);
    c.check(
      'guest RAM was mapped once, as a whole',
      journal.verbs('IOAS_MAP').length === 1,
      journal.verbs('IOAS_MAP').length,
    );
    // A recording tells of faults the guest was shown; this access just comes to nothing.
    if (record === null) c.check('DMA outside of RAM fails', rogue(run, run.rid) !== DMA.OK);
    c.check('the guest sends no invalidation for it', journal.named('iotlb').length < 10, journal.counter.summary());
    const type = await ask(run.guest, 'type DMA', /^@@ type/, 60_000);
    c.check('domain type switched to DMA', type.endsWith('type DMA'), type);
    await verify(c, run, '4k', 4096, ' in a DMA domain');
    await rebind(c, run, journal);
    await off(c, run, journal);
  } finally {
    await run.close();
  }
  saveRecording(record, 'vtd-v86-pass-through', recordingOf(cmdline, 'iommu=pt', run));
}

/** Saved in one v86, gone on with in a new one: the host has nothing of the old, and makes it anew. */
export async function snapshot(c: Checks, watch: Watch): Promise<void> {
  process.stdout.write('Linux 6.1 in v86, saved and resumed\n');
  const props = unit(machineWith('device-iotlb=on'));
  const before = new Journal();
  const first = watch.run(await bootV86({ props, tell: watch.tell(before.tell) }));
  const from = await (async () => {
    try {
      await first.guest.console.expect(/^@@ up/, 300_000);
      await verify(c, first, '64k', 65_536);
      const saved = await first.snapshot();
      c.check('the saved run goes on', (await ask(first.guest, 'same', /^@@ same/, 60_000)).endsWith('ok'));
      c.check('no handler failed', first.errors.length === 0, first.errors.map(String).join('; '));
      return saved;
    } finally {
      await first.close();
    }
  })();
  const journal = new Journal();
  const run = watch.run(await bootV86({ props, tell: watch.tell(journal.tell), from }));
  try {
    const same = await ask(run.guest, 'same', /^@@ same/, 120_000);
    c.check('the resumed guest reads from the disk what it wrote before', same.endsWith('ok'), same);
    c.check('on host objects made anew', journal.verbs('HWPT_ALLOC').length > 0, journal.verbs('HWPT_ALLOC').length);
    await verify(c, run, '4k', 4096, ' in the resumed guest');
    await fault(c, run);
    const type = await ask(run.guest, 'type DMA-FQ', /^@@ type/, 60_000);
    c.check('domain type switched to DMA-FQ', type.endsWith('type DMA-FQ'), type);
    await verify(c, run, '64k', 65_536, ' in a DMA-FQ domain');
    await rebind(c, run, journal);
    await off(c, run, journal);
  } finally {
    await run.close();
  }
}
