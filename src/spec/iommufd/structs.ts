/** Linux 7.2, include/uapi: how structures of the user interface are laid out. */

import { Parser } from 'binary-parser';

/** How a member is stored: little-endian, naturally aligned. `u8x3` is three reserved bytes, or-ed when decoded. */
export type Width = 'u8' | 'u8x3' | 'u16' | 'u32' | 's32' | 'u64';

const BYTES: Readonly<Record<Width, number>> = { u8: 1, u8x3: 3, u16: 2, u32: 4, s32: 4, u64: 8 };

/** Members of a structure by name, in their order in memory. */
export type Members = Readonly<Record<string, Width>>;

/** A decoded structure: 64-bit members are bigint, all others numbers. */
export type Values<M extends Members> = { -readonly [K in keyof M]: M[K] extends 'u64' ? bigint : number };

/** One structure of the uAPI: its members in order, its size, a decoder and an encoder. */
export interface Struct<M extends Members> {
  /** Size in bytes, padding included. */
  readonly bytes: number;
  /** Byte offset of every member. */
  readonly at: Readonly<Record<keyof M, number>>;
  /** @param from at least `bytes` bytes. */
  decode(from: Uint8Array): Values<M>;
  /** The structure as the kernel reads it: `bytes` bytes, little-endian. Reserved members are written as zero. */
  encode(values: Values<M>): Uint8Array;
}

/** Describes a structure once. Members are packed in order; the uAPI pads explicitly. */
export function struct<const M extends Members>(members: M): Struct<M> {
  const names = Object.keys(members) as (keyof M & string)[];
  const at = {} as Record<keyof M, number>;
  let bytes = 0;
  let parser = new Parser().endianness('little');
  for (const name of names) {
    const width = members[name]!;
    at[name] = bytes;
    bytes += BYTES[width];
    parser = declare(parser, name, width);
  }
  return {
    bytes,
    at,
    decode: (from) => parser.parse(from) as Values<M>,
    encode(values) {
      const out = new Uint8Array(bytes);
      const view = new DataView(out.buffer);
      for (const name of names) store(view, at[name]!, members[name]!, values[name] as number | bigint);
      return out;
    },
  };
}

function declare(parser: Parser, name: string, width: Width): Parser {
  switch (width) {
    case 'u8':
      return parser.uint8(name);
    case 'u8x3':
      return parser.array(name, {
        type: 'uint8',
        length: 3,
        // Reserved bytes only have to be zero.
        formatter: (bytes: number[]) => bytes.reduce((a, b) => a | b, 0),
      });
    case 'u16':
      return parser.uint16(name);
    case 'u32':
      return parser.uint32(name);
    case 's32':
      return parser.int32(name);
    case 'u64':
      return parser.uint64(name);
  }
}

function store(view: DataView, at: number, width: Width, value: number | bigint): void {
  switch (width) {
    case 'u8':
      view.setUint8(at, Number(value));
      return;
    case 'u8x3':
      return;
    case 'u16':
      view.setUint16(at, Number(value), true);
      return;
    case 'u32':
      view.setUint32(at, Number(value), true);
      return;
    case 's32':
      view.setInt32(at, Number(value), true);
      return;
    case 'u64':
      view.setBigUint64(at, BigInt(value), true);
  }
}
