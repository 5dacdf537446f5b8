import { toBigint } from '../../../src/core/bits.ts';
import type { Lane, Moment, MomentArgs } from '../../../src/history/index.ts';
import { Growing, Texts } from './growing.ts';

const HEX = /^0x(?:0|[1-9a-f][0-9a-f]{0,15})$/;
const WORDS = /^[0-9a-f]{8}(?: [0-9a-f]{8})*$/;
const WORD_TEXT = 9;

/** How a value of `args` is kept. The letters stand in the shape of a moment, so that each kind needs no word of its own. */
const KIND = { NUMBER: 'n', FRACTION: 'f', HEX: 'h', WORDS: 'w', TEXT: 't' } as const;

/** A value of `args`: its name, how it is kept, and how many words it has if it is words. */
interface Part {
  readonly key: string;
  readonly kind: string;
  readonly count: number;
  /** Kind and number together, as a shape has them. */
  readonly text: string;
}

function partOf(text: string): Part {
  const at = text.search(/[a-z]/);
  return { key: text.slice(at + 1), kind: text[at]!, count: Number(text.slice(0, at)), text: text.slice(0, at + 1) };
}

const pair = new Int32Array(2);
const fraction = new Float64Array(pair.buffer);

/**
 * All moments of a recording in columns of numbers: a moment as an object takes ten times as much, and the timeline needs the
 * columns as they are. What stands in `args` is kept as words and comes back as it was.
 */
export class MomentColumns {
  /** Names of moments. */
  readonly names = new Texts();
  /** Values of `args` that are text. */
  readonly texts = new Texts();
  /** Lanes that occur, in the order of their first moment. */
  readonly lanes = new Texts();
  readonly lane = new Growing(Uint8Array);
  readonly event = new Growing(Uint32Array);
  readonly cause = new Growing(Int32Array);
  /** Number of the name in `names`. */
  readonly name = new Growing(Uint32Array);
  /** What the moment itself is about; -1: none. */
  readonly #stream = new Growing(Int32Array);
  /** The stream it concerns, from its words or its object too; -1: none. */
  readonly subject = new Growing(Int32Array);
  readonly #shapes = new Texts();
  readonly #parts: (readonly Part[])[] = [];
  /** By number of a name: the last shape of its moments. */
  readonly #likely: number[] = [];
  readonly #shape = new Growing(Uint32Array);
  readonly #from = new Growing(Uint32Array);
  readonly #values = new Growing(Int32Array);

  get length(): number {
    return this.event.length;
  }

  /** @param subject the stream the moment concerns; -1: none is known. */
  push(m: Moment, subject: number): void {
    this.lane.push(this.lanes.number(m.lane));
    this.event.push(m.event);
    this.cause.push(m.cause);
    this.name.push(this.names.number(m.name));
    this.#stream.push(m.stream);
    this.subject.push(subject);
    this.#from.push(this.#values.length);
    this.#shape.push(this.#shapeOf(m));
  }

  /** Keeps the values of a moment; the number of their shape. Moments of one name have mostly one. */
  #shapeOf(m: Moment): number {
    const name = this.name.at(this.name.length - 1);
    const likely = this.#likely[name] ?? -1;
    const parts = this.#parts[likely];
    let count = 0;
    let same = parts !== undefined;
    const kinds: string[] = [];
    for (const key in m.args) {
      const kind = this.#keep(m.args[key]!);
      const part = parts?.[count++];
      if (part === undefined || part.key !== key || part.text !== kind) same = false;
      kinds.push(kind);
    }
    if (same && count === parts!.length) return likely;
    let n = 0;
    let shape = '';
    for (const key in m.args) shape += `${kinds[n++]}${key}\n`;
    const number = this.#shapes.number(shape);
    if (number === this.#parts.length) this.#parts.push(shape.split('\n').slice(0, -1).map(partOf));
    this.#likely[name] = number;
    return number;
  }

  /** Keeps a value; its kind, with the number of its words before it where that varies. */
  #keep(value: string | number): string {
    const v = this.#values;
    if (typeof value === 'number') {
      if ((value | 0) === value && !Object.is(value, -0)) {
        v.push(value);
        return KIND.NUMBER;
      }
      fraction[0] = value;
      v.push(pair[0]!);
      v.push(pair[1]!);
      return KIND.FRACTION;
    }
    if (HEX.test(value)) {
      const cut = Math.max(2, value.length - 8);
      v.push(Number.parseInt(value.slice(cut), 16));
      v.push(cut === 2 ? 0 : Number.parseInt(value.slice(2, cut), 16));
      return KIND.HEX;
    }
    if (WORDS.test(value)) {
      for (let at = 0; at < value.length; at += WORD_TEXT) v.push(Number.parseInt(value.slice(at, at + 8), 16));
      return `${(value.length + 1) / WORD_TEXT}${KIND.WORDS}`;
    }
    v.push(this.texts.number(value));
    return KIND.TEXT;
  }

  /** `args` of a moment, in their order. */
  *args(n: number): Generator<readonly [key: string, value: string | number]> {
    let at = this.#from.at(n);
    for (const { key, kind, count } of this.#parts[this.#shape.at(n)]!) {
      switch (kind) {
        case KIND.NUMBER:
          yield [key, this.#values.at(at++)];
          break;
        case KIND.FRACTION:
          pair[0] = this.#values.at(at++);
          pair[1] = this.#values.at(at++);
          yield [key, fraction[0]!];
          break;
        case KIND.HEX:
          yield [key, `0x${toBigint(this.#values.at(at), this.#values.at(at + 1)).toString(16)}`];
          at += 2;
          break;
        case KIND.WORDS: {
          const words = Array.from({ length: count }, (_, w) => this.#values.at(at + w) >>> 0);
          yield [key, words.map((w) => w.toString(16).padStart(8, '0')).join(' ')];
          at += count;
          break;
        }
        default:
          yield [key, this.texts.list[this.#values.at(at++)]!];
      }
    }
  }

  /** Whether a moment has a value of this name; costs less than looking for it. */
  has(n: number, key: string): boolean {
    return this.#parts[this.#shape.at(n)]!.some((p) => p.key === key);
  }

  /** Every name of a value that occurs. */
  keys(): string[] {
    return [...new Set(this.#parts.flatMap((parts) => parts.map((p) => p.key)))].toSorted();
  }

  /** A moment as it was told. */
  get(n: number): Moment {
    const args: MomentArgs = Object.fromEntries(this.args(n));
    return {
      n,
      event: this.event.at(n),
      lane: this.lanes.list[this.lane.at(n)] as Lane,
      stream: this.#stream.at(n),
      name: this.names.list[this.name.at(n)]!,
      args,
      cause: this.cause.at(n),
    };
  }

  /** The first moment of the first event from `event` on that has one; `length` where there is none. */
  firstOf(event: number): number {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.event.at(middle) < event) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
