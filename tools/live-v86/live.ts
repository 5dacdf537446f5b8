import { vtdProperties } from '../../devices/vtd/properties.ts';
import { ViommuError } from '../../src/core/errors.ts';
import { parseQemuArgs } from '../../src/lib/qemu-args/qemu-args.ts';
import { Checks } from '../live/checks.ts';
import { Counter } from '../live/counter.ts';
import { recorderFor, saveRecording } from '../live/recording.ts';
import { type Expected, mustFail, runLive, scenario } from '../live/scenario.ts';
import { inChromium } from '../live-web/scenario.ts';
import { Beside, UNWATCHED } from './beside.ts';
import { bootV86, type V86BootOptions } from './boot.ts';
import { nested, unpatched } from './nested.ts';
import { machineWith, recordingOf } from './recorded.ts';
import { passThrough, registerBased, snapshot } from './scenarios.ts';

interface Mode {
  readonly title: string;
  readonly file: string;
  /** Properties of the unit in QEMU's words. The 32-bit guest has no interrupt remapping (IRQ_REMAP depends on X86_64). */
  readonly unit: string;
  readonly boot?: Pick<V86BootOptions, 'append' | 'behindRootPort'>;
  readonly ats: boolean;
  /** A descriptor this mode lives from; 'none': the guest invalidates through registers. */
  readonly descriptor: string;
}

const MODES: readonly Mode[] = [
  { title: 'legacy mode', file: 'vtd-v86-legacy', unit: 'device-iotlb=on', ats: true, descriptor: 'iotlb' },
  {
    title: 'scalable mode, first stage',
    file: 'vtd-v86-scalable',
    unit: 'device-iotlb=on,scalable-mode=on,fsts=on',
    boot: { append: 'intel_iommu=sm_on' },
    ats: true,
    descriptor: 'p-iotlb',
  },
  {
    title: 'walks that snoop, first stage',
    file: 'vtd-v86-coherent',
    unit: 'device-iotlb=on,scalable-mode=on,fsts=on,x-page-walk-coherency=on',
    boot: { append: 'intel_iommu=sm_on' },
    ats: true,
    descriptor: 'p-iotlb',
  },
  {
    title: 'behind a root port',
    file: 'vtd-v86-root-port',
    unit: 'device-iotlb=on',
    boot: { behindRootPort: true },
    ats: true,
    descriptor: 'iotlb',
  },
  { title: 'caching mode', file: 'vtd-v86-caching', unit: 'caching-mode=on', ats: false, descriptor: 'iotlb' },
];

const propsOf = (cmdline: string) => vtdProperties(parseQemuArgs(cmdline))!;

const expected = (m: Mode, rid: number): Expected => ({
  title: `Linux 6.1 in v86, our VT-d, ${m.title}`,
  ats: m.ats,
  fault: { line: /DMAR: \[DMA Write/, has: rid === 0x100 ? /01:00\.0.*dead0000/ : /00:10\.0.*dead0000/ },
  atcCommand: 'device',
  types: ['DMA-FQ', 'identity', 'DMA'],
  own(c, _run, counter) {
    const n = counter.command(m.descriptor);
    c.check(`the guest sends ${m.descriptor} descriptors`, n > 0, n);
    c.check('HWPTs on the host', counter.verb('HWPT_ALLOC') > 0, counter.verb('HWPT_ALLOC'));
  },
});

/** What is more than the common scenario, by its name for `--only`. */
const OTHERS = {
  registers: registerBased,
  'pass-through': passThrough,
  snapshot,
  nested,
  unpatched,
  chromium: async (c: Checks) => {
    await inChromium(c);
    await inChromium(c, 'device-iotlb=on,scalable-mode=on,fsts=on', 'p-iotlb');
  },
};

const checks = new Checks();
const only = process.argv.find((a) => a.startsWith('--only='))?.slice(7);
/** The console beside the host's operations, unless only the checks are wanted. */
const watch = process.argv.includes('--checks') ? UNWATCHED : new Beside();
await runLive('live', checks, async () => {
  const names = [...MODES.map((m) => m.title), ...Object.keys(OTHERS)];
  if (only !== undefined && !names.some((n) => n.includes(only))) {
    throw new ViommuError('E_USAGE', 'caller', `no scenario '${only}'; there are: ${names.join('; ')}`);
  }
  for (const m of MODES) {
    if (only !== undefined && !m.title.includes(only)) continue;
    const cmdline = machineWith(m.unit);
    const counter = new Counter();
    const record = recorderFor('vtd');
    const run = watch.run(
      await bootV86({ ...m.boot, props: propsOf(cmdline), tell: watch.tell(counter.tell), record }),
    );
    await scenario(checks, run, counter, expected(m, run.rid), run.rid).finally(() => run.close());
    saveRecording(record, m.file, recordingOf(cmdline, m.title, run));
  }
  for (const [name, run] of Object.entries(OTHERS)) {
    if (only === undefined || only === name) await run(checks, watch);
  }
  if (only !== undefined) return;
  const props = propsOf(machineWith('device-iotlb=off'));
  const run = watch.run(await bootV86({ props, ignoreInvalidations: true, tell: watch.tell(new Counter().tell) }));
  await mustFail(checks, run).finally(() => run.close());
});
