import { bootPc, pcRecording } from './amd64-machine.ts';
import { Checks } from './checks.ts';
import { Counter } from './counter.ts';
import { recorderFor, saveRecording } from './recording.ts';
import { type Expected, mustFail, runLive, scenario } from './scenario.ts';

const expected = (ats: boolean, scalable: boolean): Expected => ({
  title: `Linux on amd64, our VT-d in ${scalable ? 'scalable' : 'legacy'} mode, NVMe ${ats ? 'with' : 'without'} ATS`,
  ats,
  fault: { line: /DMAR: \[DMA Write/, has: /0001:00:01\.0.*fault addr 0xdead0000/ },
  atcCommand: 'device',
  types: ['DMA-FQ', 'identity', 'DMA'],
  own(c, _run, counter) {
    c.check('HWPTs on the host', counter.verb('HWPT_ALLOC') > 0, counter.verb('HWPT_ALLOC'));
    c.check('no vIOMMU object: Intel has none', counter.verb('VIOMMU_ALLOC') === 0);
    const mirrored = scalable ? counter.verb('HWPT_INVALIDATE') : counter.verb('SHADOW_MAP');
    c.check(
      scalable ? 'first-stage invalidations were forwarded' : "the guest's second stage is mirrored",
      mirrored > 0,
      mirrored,
    );
  },
});

const checks = new Checks();
await runLive('live:amd64', checks, async (verbose) => {
  for (const [ats, scalable] of [
    [false, false],
    [true, false],
    [true, true],
  ] as const) {
    const counter = new Counter();
    const record = recorderFor('vtd');
    const run = verbose(await bootPc({ ats, scalable, tell: counter.tell, record }));
    await scenario(checks, run, counter, expected(ats, scalable)).finally(() => run.close());
    saveRecording(
      record,
      `vtd-live-${scalable ? 'scalable' : 'legacy'}${ats ? '-ats' : ''}`,
      pcRecording({ ats, scalable }),
    );
  }
  const run = verbose(await bootPc({ ats: false, scalable: false, deaf: true, tell: new Counter().tell }));
  await mustFail(checks, run).finally(() => run.close());
});
