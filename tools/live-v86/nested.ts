import { vtdProperties } from '../../devices/vtd/properties.ts';
import { parseQemuArgs } from '../../src/lib/qemu-args/qemu-args.ts';
import { ACCESS, DMA, NO_PASID } from '../../src/ports/dma.ts';
import { PRG } from '../../src/spec/pcie/messages.ts';
import type { TraceRecorder } from '../../src/trace/recorder.ts';
import type { Checks } from '../live/checks.ts';
import { ask } from '../live/console.ts';
import { recorderFor, saveRecording } from '../live/recording.ts';
import type { Watch } from './beside.ts';
import { bootV86, built, type Kernel } from './boot.ts';
import { Journal } from './journal.ts';
import { machineWith, recordingOf } from './recorded.ts';
import { off, verify } from './scenarios.ts';
import type { V86Run } from './start.ts';

/** A unit that nests, with page requests: what a guest needs to be a hypervisor's user space. */
const NESTING = machineWith('x-profile=arch,scalable-mode=on,fsts=on,device-iotlb=on,pasid-bits=20,svm=on');

/** As the guest program has them. */
const IOVA = 0x1234_5000;
const PAGE = 4096;
const NEST_PARENT = 1;
const DATA_VTD_S1 = 1;

function boot(kernel: Kernel, journal: Journal, watch: Watch, record: TraceRecorder | null = null): Promise<V86Run> {
  return bootV86({
    record,
    kernel,
    props: vtdProperties(parseQemuArgs(NESTING))!,
    append: 'intel_iommu=on,sm_on iommufd.allow_unsafe_interrupts=1',
    tell: watch.tell(journal.tell),
    extra: { nest: built('nest', ' -- guest') },
  });
}

/** The function's test hook: DMA through its own ATC, as a driver in the guest's user space would have it done. */
function read(run: V86Run, iova: number, bytes: number): string {
  const into = new Uint8Array(bytes);
  const outcome = run.outside(() => run.nvme.fn.memory.read(NO_PASID, iova | 0, 0, into, 0, bytes));
  return outcome === DMA.OK ? new TextDecoder().decode(into) : `refused (${outcome})`;
}

function write(run: V86Run, iova: number, text: string): number {
  const from = new TextEncoder().encode(text);
  return run.outside(() => run.nvme.fn.memory.write(NO_PASID, iova | 0, 0, from, 0, from.length));
}

/** Asks for a page. @returns the response code, -1 when the function may not ask, -2 when nobody answered in time. */
async function pageRequest(run: V86Run, iova: number, access: number): Promise<number> {
  let code = -2;
  const asked = run.outside(() => run.nvme.fn.memory.pageRequest(NO_PASID, iova | 0, 0, access, (c) => (code = c)));
  if (!asked) return -1;
  for (let i = 0; i < 500 && code === -2; i++) await new Promise((r) => setTimeout(r, 20));
  return code;
}

async function upAndTaken(c: Checks, run: V86Run): Promise<boolean> {
  const up = await run.guest.console.expect(/^@@ up/, 300_000);
  c.check('the driver probed the IOMMU and the disk came up in a DMA domain', /up DMA/.test(up), up);
  await verify(c, run, '4k', 4096);
  const vfio = await ask(run.guest, 'vfio', /^@@ vfio driver/, 60_000);
  c.check('vfio-pci takes the function', vfio.endsWith('vfio-pci'), vfio);
  run.guest.send('run nest');
  const attached = await run.guest.console.expect(/^@@ nest (attached|failed)/, 60_000);
  c.check(
    'the guest built a nested HWPT with its own iommufd and attached the function',
    attached.endsWith('attached'),
    attached,
  );
  return attached.endsWith('attached');
}

/** Linux 7.2: the guest nests on our vVT-d, and a program in its user space answers the function's page requests. */
export async function nested(c: Checks, watch: Watch): Promise<void> {
  process.stdout.write('Linux 7.2 in v86: the guest nests with its own iommufd\n');
  const journal = new Journal();
  const record = recorderFor('vtd');
  const run = watch.run(await boot('7.2', journal, watch, record));
  try {
    if (!(await upAndTaken(c, run))) return;
    const { memory } = run.nvme.fn;
    const info = run.guest.console.lines.find((l) => l.startsWith('@@ nest info')) ?? '';
    const shown = /ecap ([0-9a-f]+)/.exec(info)?.[1] ?? '';
    c.check('the guest reads our ECAP through its GET_HW_INFO', ((BigInt(`0x0${shown}`) >> 26n) & 1n) === 1n, info);
    c.check('the driver enabled page requests in the function', memory.pri?.enabled === true);
    c.check(
      'DMA through both stages finds the guest page',
      read(run, IOVA, 30) === 'first page of the nested guest',
      read(run, IOVA, 30),
    );
    hostObjects(c, journal);
    c.check('the ATC holds the translation', memory.atc.lookup(NO_PASID, IOVA, 0));
    await pageRequests(c, run, journal);
    await invalidations(c, run, journal);
    run.guest.send('quit');
    await run.guest.console.expect(/^@@ run nest ended 0/, 60_000);
    c.check('closing the program empties the ATC', memory.atc.used === 0, memory.atc.used);
    const back = await ask(run.guest, 'unvfio', /^@@ unvfio/, 60_000);
    c.check('the function goes back to its driver', back.endsWith('ok'), back);
    const works = await ask(run.guest, 'verify 64k 65536', /^@@ verify/, 120_000);
    c.check('and the disk works', works.endsWith('ok'), works);
    await off(c, run, journal);
  } finally {
    await run.close();
  }
  saveRecording(record, 'vtd-v86-nested', recordingOf(NESTING, 'nested HWPT of the guest, page requests', run, '7.2'));
}

/** On the host, from the first use on: the guest's parent is a shadow that can be nested on, the guest's child a nested HWPT on it. */
function hostObjects(c: Checks, journal: Journal): void {
  const made = journal.verbs('HWPT_ALLOC').filter((h) => h.result === 0);
  const child = made.findLast((h) => h.args.type === DATA_VTD_S1);
  const parent = made.find((h) => h.args.hwpt === child?.args.pt);
  c.check('a nested HWPT on the host', child !== undefined);
  c.check('its parent is a nesting parent', (Number(parent?.args.flags ?? 0) & NEST_PARENT) !== 0);
  c.check(
    'over the shadow of the guest second stage, not over all RAM',
    parent?.args.pt !== made[0]?.args.pt,
    `IOAS ${parent?.args.pt}`,
  );
  const moved = [...journal.verbs('ATTACH'), ...journal.verbs('REPLACE')].some(
    (h) => h.args.pt === child?.args.hwpt && h.result === 0,
  );
  c.check('to which the function was moved', moved);
}

async function pageRequests(c: Checks, run: V86Run, journal: Journal): Promise<void> {
  const { memory } = run.nvme.fn;
  const where = IOVA + PAGE;
  c.check('a page that is not mapped is refused', write(run, where, 'x') !== DMA.OK);
  const before = journal.named('page-response').length;
  const code = await pageRequest(run, where, ACCESS.READ | ACCESS.WRITE);
  const fault = run.guest.console.lines.find((l) => l.includes('nest fault')) ?? '';
  c.check('the page request reaches the guest program', /addr 12346000 perm [0-9a-f]*3/.test(fault), fault);
  c.check('its answer reaches the function', code === PRG.SUCCESS, code);
  c.check(
    'as one page group response of the guest',
    journal.named('page-response').length === before + 1,
    journal.counter.summary(),
  );
  c.check('the retry succeeds', write(run, where, 'written after the answer\0') === DMA.OK);
  run.guest.send('show');
  const page = await run.guest.console.expect(/^@@ nest page/, 30_000);
  c.check('and the guest finds the bytes', page === '@@ nest page written after the answer', page);
  const refused = await pageRequest(run, IOVA + 16 * PAGE, ACCESS.READ);
  c.check('what the program refuses is refused', refused === PRG.INVALID, refused);
  c.check('nothing is left unanswered', memory.outstanding === 0, memory.outstanding);
}

async function invalidations(c: Checks, run: V86Run, journal: Journal): Promise<void> {
  const { memory } = run.nvme.fn;
  read(run, IOVA, 30);
  await ask(run.guest, 'remap', /^@@ nest remapped/, 30_000);
  c.check(
    'until it is invalidated, the ATC serves the old page',
    read(run, IOVA, 30) === 'first page of the nested guest',
  );
  const dropped = memory.atc.dropped;
  const [host, commands] = [journal.host.length, journal.commands.length];
  const answer = await ask(run.guest, 'invalidate', /^@@ nest invalidated/, 30_000);
  c.check('HWPT_INVALIDATE in the guest succeeds', answer === '@@ nest invalidated 0 of 1', answer);
  c.check(
    'it is a first-stage and a device-TLB invalidation of the guest',
    journal.named('p-iotlb', commands).length > 0 && journal.named('device', commands).length > 0,
  );
  const calls = journal.verbs('HWPT_INVALIDATE', host);
  c.check('and HWPT_INVALIDATE on the host', calls.length > 0 && calls.every((h) => h.result === 0), calls.length);
  c.check('the ATC entry is gone', !memory.atc.lookup(NO_PASID, IOVA, 0) && memory.atc.dropped > dropped);
  c.check('DMA finds the new page', read(run, IOVA, 26) === 'another page, mapped later', read(run, IOVA, 26));
}

/** The same kernel as it is distributed: its 32-bit page-request code takes every address for a bad one. */
export async function unpatched(c: Checks, watch: Watch): Promise<void> {
  process.stdout.write('Linux 7.2 without the change: every page request is answered Invalid Request\n');
  const journal = new Journal();
  const run = watch.run(await boot('7.2-unpatched', journal, watch));
  try {
    if (!(await upAndTaken(c, run))) return;
    c.check('DMA through both stages works', read(run, IOVA, 30) === 'first page of the nested guest');
    const code = await pageRequest(run, IOVA + PAGE, ACCESS.READ | ACCESS.WRITE);
    c.check('the answer is Invalid Request', code === PRG.INVALID, code);
    c.check('the program never saw the request', !run.guest.console.lines.some((l) => l.includes('nest fault')));
    run.guest.send('quit');
    await run.guest.console.expect(/^@@ run nest ended 0/, 60_000);
    const said = run.guest.console.lines.some((l) => l.includes('Address is not canonical'));
    c.check('and the driver says why', said);
    run.guest.send('off');
    await run.finished();
    c.check('no handler failed', run.errors.length === 0, run.errors.map(String).join('; '));
  } finally {
    await run.close();
  }
}
