import { LANE, type Moment, type ToldMoment } from '../../../src/history/index.ts';
import { cmdOp, decodeCommand } from '../../../src/spec/smmuv3/index.ts';
import { decodeInvalidation } from '../../../src/spec/vtd/index.ts';
import type { IommuKind, TraceHeader } from '../../../src/trace/index.ts';

function wordsOf(m: Moment): Int32Array {
  return Int32Array.from(String(m.args.words).split(' '), (w) => Number.parseInt(w, 16));
}

/** The stream that a command's own words name; -1: none. */
function namedInWords(kind: IommuKind, words: Int32Array): number {
  if (words.length < 4) return -1;
  if (kind === 'smmuv3') {
    const command = decodeCommand(words);
    return 'sid' in command && command.op !== 'CFGI_STE_RANGE' ? command.sid : -1;
  }
  const d = decodeInvalidation(words);
  if (d.op === 'context-cache') return d.granularity === 'device' ? d.sid : -1;
  return 'sid' in d ? d.sid : -1;
}

/**
 * Which stream each moment concerns, where the moment itself does not say: the stream that a command names, or the device that a
 * host operation is about. Devices are known by the operations that bound them.
 */
export class Subjects {
  readonly #kind: IommuKind;
  readonly #byName: ReadonlyMap<string, number>;
  readonly #devices = new Map<number, number>();

  constructor(header: TraceHeader) {
    this.#kind = header.iommu;
    this.#byName = new Map(header.devices.map((d) => [d.name, d.sid]));
  }

  /** StreamID or requester id; -1: none is known. */
  of(m: ToldMoment): number {
    if (m.stream >= 0) return m.stream;
    if (m.lane === LANE.HOST) return this.#host(m);
    const { words } = m.args;
    if (m.lane !== LANE.COMMANDS || typeof words !== 'object' || 'lo' in words) return -1;
    return namedInWords(this.#kind, Int32Array.from(words));
  }

  #host(m: ToldMoment): number {
    const dev = typeof m.args.dev === 'number' ? m.args.dev : -1;
    if (m.name === 'BIND') {
      const name = String(m.args.device);
      // A function that was plugged in later is named after its requester id.
      const sid = this.#byName.get(name) ?? (/^rid\d+$/.test(name) ? Number(name.slice(3)) : undefined);
      if (sid !== undefined) this.#devices.set(dev, sid);
    }
    return this.#devices.get(dev) ?? -1;
  }
}

/** A command's own words, decoded: field by field, as text. Empty: it has none. */
export function decodedCommand(kind: IommuKind, m: Moment): readonly (readonly [name: string, value: string])[] {
  if (typeof m.args.words !== 'string') return [];
  const words = wordsOf(m);
  if (words.length < 4) return [];
  if (kind === 'smmuv3' && cmdOp(words[0]!) === 0) return [];
  const fields = Object.entries(kind === 'smmuv3' ? decodeCommand(words) : decodeInvalidation(words));
  return fields.flatMap(([name, value]) => (name === 'op' || value === null ? [] : [[name, textOf(value)] as const]));
}

function textOf(value: unknown): string {
  if (typeof value === 'number' || typeof value === 'bigint')
    return value < 10 ? `${value}` : `0x${value.toString(16)}`;
  if (typeof value === 'object' && value !== null)
    return Object.entries(value)
      .map(([k, v]) => `${k} ${textOf(v)}`)
      .join(', ');
  return String(value);
}
