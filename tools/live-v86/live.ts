import { defaultProperties, type VtdProperties } from '../../devices/vtd/properties.ts';
import { Checks } from '../live/checks.ts';
import { type Expected, mustFail, runLive, scenario } from '../live/scenario.ts';
import { Counter } from '../live/session.ts';
import { bootV86, type V86BootOptions } from './boot.ts';

/** The 32-bit guest has no interrupt remapping (IRQ_REMAP depends on X86_64). */
const LEGACY: VtdProperties = { ...defaultProperties('qemu-11.1'), intremap: false, deviceIotlb: true };
const SCALABLE: VtdProperties = { ...LEGACY, scalableMode: true, fsts: true };

interface Mode {
  readonly title: string;
  readonly boot: Omit<V86BootOptions, 'tell'>;
  readonly bdf: RegExp;
  readonly ats: boolean;
  readonly command: string;
}

const MODES: readonly Mode[] = [
  { title: 'legacy mode', boot: { props: LEGACY }, bdf: /00:10\.0.*dead0000/, ats: true, command: 'iotlb' },
  {
    title: 'scalable mode, first stage',
    boot: { props: SCALABLE, append: 'intel_iommu=sm_on' },
    bdf: /00:10\.0.*dead0000/,
    ats: true,
    command: 'p-iotlb',
  },
  {
    title: 'behind a root port',
    boot: { props: LEGACY, behindRootPort: true },
    bdf: /01:00\.0.*dead0000/,
    ats: true,
    command: 'iotlb',
  },
  {
    title: 'caching mode',
    boot: { props: { ...LEGACY, cachingMode: true } },
    bdf: /00:10\.0.*dead0000/,
    ats: true,
    command: 'iotlb',
  },
];

const expected = (m: Mode): Expected => ({
  title: `Linux 6.1 in v86, our VT-d, ${m.title}`,
  ats: m.ats,
  fault: { line: /DMAR: \[DMA Write/, has: m.bdf },
  atcCommand: 'device',
  types: ['DMA-FQ', 'identity', 'DMA'],
  own(c, _run, counter) {
    c.check(`the guest sends ${m.command} descriptors`, counter.command(m.command) > 0, counter.command(m.command));
    c.check('HWPTs on the host', counter.verb('HWPT_ALLOC') > 0, counter.verb('HWPT_ALLOC'));
  },
});

const checks = new Checks();
const only = process.argv.find((a) => a.startsWith('--only='))?.slice(7);
await runLive('live', checks, async (verbose) => {
  for (const m of MODES) {
    if (only !== undefined && !m.title.includes(only)) continue;
    const counter = new Counter();
    const run = await bootV86({ ...m.boot, tell: counter.tell });
    verbose(run);
    await scenario(checks, run, counter, expected(m), run.rid).finally(() => run.close());
  }
  if (only !== undefined) return;
  const run = await bootV86({ props: LEGACY, ignoreInvalidations: true, tell: new Counter().tell });
  verbose(run);
  await mustFail(checks, run).finally(() => run.close());
});
