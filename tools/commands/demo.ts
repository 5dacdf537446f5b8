import { parseArgs } from 'node:util';
import type { MakeReplayTarget } from '../../src/trace/index.ts';
import { type Command, EXIT } from '../cli/command.ts';
import { fixtures } from '../replay/fixtures.ts';
import { differences, summary } from '../replay/report.ts';
import type { Replayed } from '../replay/run.ts';
import { Story } from '../replay/story.ts';
import { replayOne } from './replay.ts';

const USAGE = `usage: viommu demo

Replays every recording that comes with the package, and ends with a table and the story of one stream: which guest
command caused which host operation. This is what \`npm start\` runs.`;

/** The recording whose story is told, and the stream in it: an NVMe disk of a booting arm64 Linux. */
const STORY = { file: 'smmuv3-boot.ndjson.gz', sid: 0x100, lines: 60 };

/** `viommu demo` on machines made by `make`. */
export function demoCommand(make: MakeReplayTarget): Command {
  return {
    name: 'demo',
    summary: 'replay every recording of the package; a table, and the story of one stream',
    usage: USAGE,
    async run(args, io) {
      parseArgs({ args: [...args], options: {} });
      const done: Replayed[] = [];
      const story = new Story();
      for (const f of fixtures()) {
        const watch = f.file === STORY.file ? { tell: story.tell, event: story.event } : {};
        done.push(await replayOne(f.path, make, {}, io, watch));
      }
      io.out('');
      for (const r of done) for (const line of differences(r)) io.out(line);
      for (const line of summary(done)) io.out(line);
      io.out('');
      io.out(
        `The story of stream 0x${STORY.sid.toString(16)} (an NVMe disk) in ${STORY.file}: guest commands, and what each caused`,
      );
      for (const line of story.lines(STORY.sid, STORY.lines)) io.out(line);
      return done.every((r) => r.ok) ? EXIT.OK : EXIT.DIFFERS;
    },
  };
}
