import { ViommuError } from '../../src/core/errors.ts';
import type { MakeReplayTarget } from '../../src/trace/index.ts';
import { type Command, EXIT } from '../cli/verb.ts';
import { fixtures } from '../replay/fixtures.ts';
import { differences, summary, toJson } from '../replay/report.ts';
import type { Replayed } from '../replay/run.ts';
import { Story } from '../replay/story.ts';
import { SMMUV3_WORDS, VTD_WORDS } from '../replay/story-words.ts';
import { replayOne } from './replay.ts';

/** Whose stories are told: an NVMe disk's, of a Linux that boots, on both IOMMUs. */
const STORIES = [
  { file: 'smmuv3-boot.ndjson.gz', sid: 0x100, device: 'nvme', words: SMMUV3_WORDS },
  { file: 'vtd-scalable-first-ats.ndjson.gz', sid: 0x100, device: 'nvme', words: VTD_WORDS },
];
const LINES = 48;

/** `viommu demo` on machines made by `make`. */
export function demoCommand(make: MakeReplayTarget): Command {
  return {
    name: 'demo',
    summary: 'replay every recording of the package; a table, and the story of one stream',
    about: `Replays every recording that comes with the package, and ends with a table and the story of one stream: which guest
command caused which host operation. This is what \`npm start\` runs.`,
    examples: ['viommu demo', 'viommu demo --json --quiet'],
    declare() {},
    async run(_args, _values, io) {
      const done: Replayed[] = [];
      let broken = 0;
      const stories = new Map(STORIES.map((s) => [s.file, new Story(s.words)]));
      for (const f of fixtures()) {
        const story = stories.get(f.file);
        const watch = story === undefined ? {} : { tell: story.tell, event: story.event };
        try {
          done.push(await replayOne(f.path, make, {}, io, watch));
        } catch (e) {
          if (!(e instanceof ViommuError)) throw e;
          broken++;
          io.err(`viommu demo: ${e.message}`);
        }
      }
      if (io.json) for (const r of done) io.out(JSON.stringify(toJson(r)));
      else io.out('');
      for (const r of done) for (const line of differences(r)) (io.json ? io.err : io.out)(line);
      if (!io.json) for (const line of summary(done, io.paint)) io.out(line);
      for (const { file, sid, device } of io.json ? [] : STORIES) {
        const lines = stories.get(file)?.lines(sid, device, LINES) ?? [];
        io.out('');
        io.out(
          `The story of stream 0x${sid.toString(16)} (an NVMe disk) in ${file}: what the guest did, and what the host did for it`,
        );
        for (const line of lines) io.out(line);
      }
      if (broken > 0) return EXIT.INPUT;
      return done.every((r) => r.ok) ? EXIT.OK : EXIT.DIFFERS;
    },
  };
}
