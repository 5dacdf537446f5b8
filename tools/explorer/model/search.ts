import type { TraceSession } from './session.ts';
import { hex } from './streams.ts';

/** One condition of a query. */
interface Term {
  readonly not: boolean;
  /** '': the text stands anywhere. */
  readonly key: string;
  readonly text: string;
}

type Test = (n: number) => boolean;

/** Names that mean something about every moment; any other is a name of a value. */
const OWN_KEYS = ['about', 'event', 'lane', 'moment', 'name', 'stream'] as const;
/** Moments that are looked at for values to offer. */
const LOOKED_AT = 30_000;
const MOST_OFFERED = 20;

/** Words of a query; `"…"` keeps spaces. */
export function termsOf(query: string): Term[] {
  const words = query.match(/(?:[^\s"]|"[^"]*"?)+/g) ?? [];
  return words.flatMap((word) => {
    const not = word.startsWith('-') && word.length > 1;
    const plain = (not ? word.slice(1) : word).replaceAll('"', '');
    const key = /^([A-Za-z][\w]*)[:=]/.exec(plain)?.[1];
    const text = key === undefined ? plain : plain.slice(key.length + 1);
    return text === '' ? [] : [{ not, key: key ?? '', text: text.toLowerCase() }];
  });
}

/** A decimal or hexadecimal number; null: it is none. */
export function numberOf(text: string): bigint | null {
  return /^(0x[0-9a-f]+|\d+)$/i.test(text) ? BigInt(text) : null;
}

/** What a value must be: a number, a range of numbers `A..B`, or a text in it. */
function matcher(text: string): (value: string | number) => boolean {
  const range = text.split('..');
  const [low, high] = [numberOf(range[0] ?? ''), numberOf(range[1] ?? '')];
  const number = (value: string | number) => {
    if (typeof value === 'number') return Number.isInteger(value) ? BigInt(value) : null;
    return value.startsWith('0x') ? numberOf(value) : null;
  };
  if (range.length === 2 && low !== null && high !== null)
    return (value) => {
      const v = number(value);
      return v !== null && v >= low && v <= high;
    };
  if (low !== null && range.length === 1) return (value) => number(value) === low || `${value}` === text;
  return (value) => `${value}`.toLowerCase().includes(text);
}

/** Finds moments of a session by what is written about them. */
export class Search {
  readonly #session: TraceSession;
  readonly #names: ReadonlyMap<string, number>;

  constructor(session: TraceSession) {
    this.#session = session;
    this.#names = new Map(session.header.devices.map((d) => [d.name.toLowerCase(), d.sid]));
  }

  /** Numbers of the moments that fulfil every condition of a query, in order. An empty query: all of them. */
  find(query: string): Int32Array<ArrayBuffer> {
    const { moments } = this.#session;
    const tests = termsOf(query).map((t) => {
      const test = this.#test(t);
      return t.not ? (n: number) => !test(n) : test;
    });
    const found = new Int32Array(moments.length);
    let count = 0;
    for (let n = 0; n < moments.length; n++) if (tests.every((test) => test(n))) found[count++] = n;
    return found.slice(0, count);
  }

  #test({ key, text }: Term): Test {
    const { moments: m } = this.#session;
    const matches = matcher(text);
    switch (key) {
      case 'about': {
        const marked = this.about(this.streamOf(text));
        return (n) => marked[n] === 1;
      }
      case 'event':
        return (n) => matches(m.event.at(n));
      case 'moment':
        return (n) => matches(n);
      case 'stream': {
        const stream = this.streamOf(text);
        return stream >= 0
          ? (n) => m.subject.at(n) === stream
          : (n) => m.subject.at(n) >= 0 && matches(m.subject.at(n));
      }
      case 'lane':
        return this.#listed(m.lanes.list, (n) => m.lane.at(n), text);
      case 'name':
        return this.#listed(m.names.list, (n) => m.name.at(n), text);
      case '':
        return this.#anywhere(text);
      default:
        return (n) => {
          if (!m.has(n, key)) return false;
          for (const [k, v] of m.args(n)) if (k === key) return matches(v);
          return false;
        };
    }
  }

  /** Where a moment's text is one of a few, each is looked at once. */
  #listed(list: readonly string[], of: (n: number) => number, text: string): Test {
    const fits = Uint8Array.from(list, (t) => (t.toLowerCase().includes(text) ? 1 : 0));
    return (n) => fits[of(n)] === 1;
  }

  #anywhere(text: string): Test {
    const m = this.#session.moments;
    const name = this.#listed(m.names.list, (n) => m.name.at(n), text);
    const lane = this.#listed(m.lanes.list, (n) => m.lane.at(n), text);
    const matches = matcher(text);
    return (n) => {
      if (name(n) || lane(n)) return true;
      for (const [, v] of m.args(n)) if (matches(v)) return true;
      return false;
    };
  }

  /** The stream that a number or a device's name stands for; -1: none. */
  streamOf(text: string): number {
    const named = this.#names.get(text.toLowerCase());
    if (named !== undefined) return named;
    const number = numberOf(text);
    return number === null ? -1 : Number(number);
  }

  /**
   * Marks everything about a stream: what it did, what names it, what came of these, and what led to them. What else came of
   * the causes is not about it.
   */
  about(stream: number): Uint8Array {
    const { moments: m } = this.#session;
    const down = new Uint8Array(m.length);
    for (let n = 0; n < m.length; n++) {
      const cause = m.cause.at(n);
      if (m.subject.at(n) === stream || (m.subject.at(n) < 0 && cause >= 0 && down[cause] === 1)) down[n] = 1;
    }
    for (let n = m.length - 1; n >= 0; n--) if (down[n] === 1 && m.cause.at(n) >= 0) down[m.cause.at(n)] = 1;
    return down;
  }

  /** What could stand where a query ends: names of values, or values of the name that stands there. */
  complete(query: string): string[] {
    const last = /(?:[^\s"]|"[^"]*"?)*$/.exec(query)?.[0] ?? '';
    const before = query.slice(0, query.length - last.length);
    const not = last.startsWith('-') ? '-' : '';
    const word = last.slice(not.length);
    const cut = word.search(/[:=]/);
    const offers = cut < 0 ? this.#keys(word) : this.#values(word.slice(0, cut), word.slice(cut + 1));
    return offers.slice(0, MOST_OFFERED).map((o) => before + not + o);
  }

  #keys(word: string): string[] {
    const m = this.#session.moments;
    const low = word.toLowerCase();
    const keys = [...OWN_KEYS, ...m.keys().filter((k) => !(OWN_KEYS as readonly string[]).includes(k))];
    const names = m.names.list.filter((name) => low !== '' && name.toLowerCase().includes(low));
    return [
      ...keys.filter((k) => k.toLowerCase().startsWith(low)).map((k) => `${k}:`),
      ...names.map((name) => `name:${quoted(name)}`),
    ];
  }

  #values(key: string, text: string): string[] {
    const low = text.replaceAll('"', '').toLowerCase();
    return this.#valuesOf(key)
      .filter((v) => v.toLowerCase().includes(low))
      .map((v) => `${key}:${quoted(v)}`);
  }

  #valuesOf(key: string): string[] {
    const { moments: m, header } = this.#session;
    if (key === 'lane') return [...m.lanes.list];
    if (key === 'name') return [...m.names.list];
    if (key === 'stream' || key === 'about') {
      const streams = new Set<number>();
      for (let n = 0; n < m.length; n++) if (m.subject.at(n) >= 0) streams.add(m.subject.at(n));
      const names = header.devices.filter((d) => streams.has(d.sid)).map((d) => d.name);
      return [...names, ...[...streams].toSorted((a, b) => a - b).map(hex)];
    }
    const seen = new Map<string, number>();
    for (let n = 0; n < Math.min(m.length, LOOKED_AT); n++) {
      if (!m.has(n, key)) continue;
      for (const [k, v] of m.args(n)) if (k === key) seen.set(`${v}`, (seen.get(`${v}`) ?? 0) + 1);
    }
    return [...seen].toSorted((a, b) => b[1] - a[1]).map(([v]) => v);
  }
}

function quoted(text: string): string {
  return /\s/.test(text) ? `"${text}"` : text;
}
