import { fromWords } from '../core/bits.ts';
import { ViommuError } from '../core/errors.ts';
import { fromBase64 } from '../lib/base64.ts';

/** Where a message about a recording points: the file, and the line or event it is about. */
export class Place {
  readonly file: string;
  /** Line of the decompressed text, from 1. */
  line = 0;
  /** Number of the event that is expected there; -1 on the header's line. */
  event = -1;

  constructor(file: string) {
    this.file = file;
  }

  error(what: string, cause?: unknown): ViommuError {
    const where = this.event < 0 ? 'header' : `event ${this.event}`;
    return new ViommuError('E_TRACE_FORMAT', 'trace', `${this.file}: ${where}: ${what}`, {}, cause);
  }
}

/** A decoded JSON object whose fields are not trusted yet. */
export type Raw = { readonly [key: string]: unknown };

function shown(value: unknown): string {
  if (value === undefined) return 'nothing';
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}

/**
 * Takes fields out of one JSON object, with a message that names field, expectation and finding when one is not as the
 * format says. A 64-bit value comes out in `lo` and `hi`.
 */
export class Fields {
  readonly place: Place;
  lo = 0;
  hi = 0;
  #raw: Raw = {};

  constructor(place: Place) {
    this.place = place;
  }

  of(raw: Raw): this {
    this.#raw = raw;
    return this;
  }

  has(key: string): boolean {
    const value = this.#raw[key];
    return value !== undefined && value !== null;
  }

  wrong(key: string, expected: string): ViommuError {
    return this.place.error(`"${key}": expected ${expected}, found ${shown(this.#raw[key])}`);
  }

  text(key: string): string {
    const value = this.#raw[key];
    if (typeof value !== 'string') throw this.wrong(key, 'a string');
    return value;
  }

  flag(key: string): boolean {
    const value = this.#raw[key];
    if (typeof value !== 'boolean') throw this.wrong(key, 'true or false');
    return value;
  }

  /** An integer in [min, max]. */
  int(key: string, min: number, max: number): number {
    const value = this.#raw[key];
    if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max)
      throw this.wrong(key, `an integer from ${min} to ${max}`);
    return value;
  }

  /** A 64-bit `"0x…"` value into `lo` and `hi`. */
  words(key: string): void {
    const value = this.#raw[key];
    if (typeof value !== 'string' || !/^0x[0-9a-fA-F]{1,16}$/.test(value)) throw this.wrong(key, 'a "0x…" hexadecimal');
    const cut = value.length - 8;
    if (cut <= 2) {
      this.lo = Number.parseInt(value, 16) | 0;
      this.hi = 0;
    } else {
      this.lo = Number.parseInt(value.slice(cut), 16) | 0;
      this.hi = Number.parseInt(value.slice(2, cut), 16) | 0;
    }
  }

  /** A `"0x…"` physical address or size of at most 52 bits. */
  address(key: string): number {
    this.words(key);
    if (this.hi >>> 20 !== 0) throw this.wrong(key, 'at most 52 bits');
    return fromWords(this.lo, this.hi);
  }

  /** A `"0x…"` value of 32 bits, unsigned. */
  word(key: string): number {
    this.words(key);
    if (this.hi !== 0) throw this.wrong(key, 'at most 32 bits');
    return this.lo >>> 0;
  }

  /** log2 of a `"0x…"` power of two. */
  shift(key: string): number {
    const value = this.address(key);
    const shift = Math.log2(value);
    if (value === 0 || 2 ** Math.round(shift) !== value) throw this.wrong(key, 'a power of two');
    return Math.round(shift);
  }

  base64(key: string, length: number): Uint8Array {
    const value = this.#raw[key];
    if (typeof value !== 'string' || !/^[A-Za-z0-9+/]*={0,2}$/.test(value)) throw this.wrong(key, 'base64');
    const bytes = fromBase64(value);
    if (bytes.length !== length && length > 0) throw this.wrong(key, `base64 of ${length} bytes (not ${bytes.length})`);
    return bytes;
  }

  object(key: string): Raw {
    const value = this.#raw[key];
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw this.wrong(key, 'an object');
    return value as Raw;
  }

  list(key: string): readonly unknown[] {
    const value = this.#raw[key];
    if (!Array.isArray(value)) throw this.wrong(key, 'a list');
    return value;
  }
}
