import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { ViommuError } from '../../../src/core/errors.ts';
import { makeReplayMachine } from '../../../src/machine/replay.ts';
import { Heard, Replay, readTrace } from '../../../src/trace/index.ts';
import { Finding, type FuzzTarget, type Step } from '../target.ts';

/** From the source and from what is built of it. */
const FOLDER = ['../../..', '../../../..']
  .map((up) => join(import.meta.dirname, up, 'guest-fixtures/recordings'))
  .find((folder) => existsSync(folder))!;
/** Lines of a recording that are looked at: short inputs are more inputs. */
const LINES = 300;
const CHARACTERS = '"\\{}[]:,0123456789abcdefxulltrue-.e ';

const texts = new Map<string, readonly string[]>();

function linesOf(file: string): readonly string[] {
  let lines = texts.get(file);
  if (lines === undefined) {
    lines = gunzipSync(readFileSync(join(FOLDER, file)))
      .toString('utf8')
      .split('\n', LINES);
    texts.set(file, lines);
  }
  return lines;
}

/** Each step spoils a line: a character, a bit of a number in it, its place. */
function spoiled(lines: readonly string[], steps: readonly Step[], renumber: boolean): string[] {
  const out = [...lines];
  for (const [what, line, a, b] of steps) {
    const at = Number(line) % out.length;
    const text = out[at]!;
    const n = Number(a);
    if (what === 'drop') out.splice(at, 1);
    else if (what === 'double') out.splice(at, 0, text);
    else if (what === 'swap') [out[at], out[n % out.length]] = [out[n % out.length]!, text];
    else if (what === 'cut') out[at] = text.slice(0, n % (text.length + 1));
    else if (what === 'character') {
      const i = n % (text.length + 1);
      out[at] = text.slice(0, i) + CHARACTERS[Number(b) % CHARACTERS.length] + text.slice(i + 1);
    } else {
      const numbers = [...text.matchAll(/0x[0-9a-f]+|\b\d+\b/g)];
      const m = numbers[n % Math.max(1, numbers.length)];
      if (m === undefined) continue;
      const value = BigInt(m[0]) ^ (1n << BigInt(Number(b) % 64));
      const shown = m[0].startsWith('0x') ? `0x${value.toString(16)}` : String(value);
      out[at] = text.slice(0, m.index) + shown + text.slice(m.index + m[0].length);
    }
    if (out.length === 0) return out;
  }
  if (!renumber) return out;
  return out.map((l, i) => (i === 0 ? l : l.replace(/"i":\d+/, `"i":${i - 1}`)));
}

async function play(text: string): Promise<void> {
  const pieces = (async function* () {
    yield await Promise.resolve(text);
  })();
  const trace = await readTrace('spoiled', pieces);
  const heard = new Heard();
  const replay = new Replay(trace.header, makeReplayMachine(trace.header, {}, heard.tell), heard);
  for await (const batch of trace.batches) for (const e of batch) replay.apply(e);
  replay.finish();
}

/** Recordings of unknown origin. */
export const tracesTarget: FuzzTarget = {
  name: 'traces',
  summary: 'recordings with lines, numbers and characters spoiled: replayed, or refused with a named error',
  length: 4,
  generate(rnd, length) {
    const files = readdirSync(FOLDER).filter((f) => f.endsWith('.ndjson.gz'));
    const steps = Array.from({ length }, (): Step => {
      const what = rnd.pick(['number', 'number', 'number', 'character', 'drop', 'double', 'swap', 'cut'] as const);
      return [what, rnd.chance(20) ? 0 : rnd.below(LINES), rnd.next() >>> 1, rnd.next() >>> 1];
    });
    return { config: { file: rnd.pick(files), renumber: rnd.chance(85) ? 1 : 0 }, steps };
  },
  async run(input, plant) {
    const lines = linesOf(String(input.config.file));
    const text = spoiled(lines, input.steps, input.config.renumber === 1).join('\n');
    const before = performance.now();
    try {
      await play(plant('text', text));
    } catch (e) {
      if (!(e instanceof ViommuError)) throw e;
    }
    const took = performance.now() - before;
    if (took > 60_000) throw new Finding(`a recording of ${LINES} lines took ${took.toFixed(0)} ms`);
    return {};
  },
};
