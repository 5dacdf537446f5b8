import { armRecording, bootArm } from './arm64-machine.ts';
import { Checks } from './checks.ts';
import { Counter } from './counter.ts';
import { recorderFor, saveRecording } from './recording.ts';
import { type Expected, mustFail, runLive, scenario } from './scenario.ts';

const expected = (ats: boolean): Expected => ({
  title: `Linux on arm64, our SMMUv3, NVMe ${ats ? 'with' : 'without'} ATS`,
  ats,
  fault: { line: /event: F_/, has: /F_TRANSLATION.*sid: 0x8/ },
  atcCommand: 'SMMU_CMD_ATC_INV',
  types: ['DMA-FQ', 'identity', 'DMA'],
  own(c, run, counter) {
    c.check('a two-level stream table', run.unit.window.read(0x88, 4) >>> 16 === 1);
    c.check('nested HWPTs on the host', counter.verb('HWPT_ALLOC') > 0, counter.verb('HWPT_ALLOC'));
    c.check('one vDEVICE for the one function', counter.verb('VDEVICE_ALLOC') === 1, counter.verb('VDEVICE_ALLOC'));
    c.check('invalidations were forwarded', counter.verb('HWPT_INVALIDATE') > 0, counter.verb('HWPT_INVALIDATE'));
  },
});

const checks = new Checks();
await runLive('live:arm64', checks, async (verbose) => {
  for (const ats of [false, true]) {
    const counter = new Counter();
    const record = recorderFor('smmuv3');
    const run = verbose(await bootArm({ ats, tell: counter.tell, record }));
    await scenario(checks, run, counter, expected(ats)).finally(() => run.close());
    saveRecording(record, ats ? 'smmuv3-live-ats' : 'smmuv3-live', armRecording(ats));
  }
  const run = verbose(await bootArm({ ats: false, deaf: true, tell: new Counter().tell }));
  await mustFail(checks, run).finally(() => run.close());
});
