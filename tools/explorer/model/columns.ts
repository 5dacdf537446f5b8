import { toBigint } from '../../../src/core/bits.ts';
import type { Lane, Moment, MomentArgs, ToldMoment, ToldValue } from '../../../src/history/index.ts';
import { Growing, Texts } from './growing.ts';

/** How a value of `args` is kept. The letters stand in the shape of a moment, so that each kind needs no word of its own. */
const KIND = { NUMBER: 'n', FRACTION: 'f', HEX: 'h', WORDS: 'w', TEXT: 't' } as const;

/** Whether a number is kept as one word. */
function isWord(value: number): boolean {
  return (value | 0) === value && !Object.is(value, -0);
}

/** How a value is kept, with the number of its words before it where that varies. */
function kindOf(value: ToldValue): string {
  if (typeof value === 'number') return isWord(value) ? KIND.NUMBER : KIND.FRACTION;
  if (typeof value === 'string') return KIND.TEXT;
  return 'lo' in value ? KIND.HEX : `${value.length}${KIND.WORDS}`;
}

/** Whether a value is kept as a part of a shape says. */
function fits(value: ToldValue, part: Part): boolean {
  if (typeof value === 'number') return part.kind === (isWord(value) ? KIND.NUMBER : KIND.FRACTION);
  if (typeof value === 'string') return part.kind === KIND.TEXT;
  return 'lo' in value ? part.kind === KIND.HEX : part.kind === KIND.WORDS && part.count === value.length;
}

/** A value of `args`: its name, how it is kept, and how many words it has if it is words. */
interface Part {
  readonly key: string;
  readonly kind: string;
  readonly count: number;
}

function partOf(text: string): Part {
  const at = text.search(/[a-z]/);
  return { key: text.slice(at + 1), kind: text[at]!, count: Number(text.slice(0, at)) };
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
  push(m: ToldMoment, subject: number): void {
    const name = this.names.number(m.name);
    this.lane.push(this.lanes.number(m.lane));
    this.event.push(m.event);
    this.cause.push(m.cause as number);
    this.name.push(name);
    this.#stream.push(m.stream);
    this.subject.push(subject);
    this.#from.push(this.#values.length);
    this.#shape.push(this.#shapeOf(name, m.args));
  }

  /** Keeps the values of a moment; the number of their shape. Moments of one name have mostly one. */
  #shapeOf(name: number, args: ToldMoment['args']): number {
    const likely = this.#likely[name] ?? -1;
    const parts = this.#parts[likely];
    let count = 0;
    let same = parts !== undefined;
    for (const key in args) {
      const value = args[key]!;
      const part = parts?.[count++];
      if (same && (part === undefined || part.key !== key || !fits(value, part))) same = false;
      this.#keep(value);
    }
    if (same && count === parts!.length) return likely;
    let shape = '';
    for (const key in args) shape += `${kindOf(args[key]!)}${key}\n`;
    const number = this.#shapes.number(shape);
    if (number === this.#parts.length) this.#parts.push(shape.split('\n').slice(0, -1).map(partOf));
    this.#likely[name] = number;
    return number;
  }

  #keep(value: ToldValue): void {
    const v = this.#values;
    if (typeof value === 'number') {
      if (isWord(value)) v.push(value);
      else {
        fraction[0] = value;
        v.push(pair[0]!);
        v.push(pair[1]!);
      }
    } else if (typeof value === 'string') v.push(this.texts.number(value));
    else if ('lo' in value) {
      v.push(value.lo);
      v.push(value.hi);
    } else for (let n = 0; n < value.length; n++) v.push(value[n]!);
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
