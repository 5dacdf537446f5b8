import { crc32, deflateSync, inflateSync } from 'node:zlib';
import { ViommuError } from '../../src/core/errors.ts';

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
/** Colours of a palette. */
const COLOURS = 256;
/** Those of them that are there because they are frequent. */
const FREQUENT = 160;

/** Pixels of a picture, three bytes each. */
export interface Pixels {
  readonly width: number;
  readonly height: number;
  readonly rgb: Uint8Array;
}

function* chunks(png: Buffer): Generator<{ readonly type: string; readonly data: Buffer }> {
  for (let at = SIGNATURE.length; at + 12 <= png.length; ) {
    const length = png.readUInt32BE(at);
    yield { type: png.toString('latin1', at + 4, at + 8), data: png.subarray(at + 8, at + 8 + length) };
    at += 12 + length;
  }
}

function paeth(a: number, b: number, c: number): number {
  const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
}

/**
 * Reads a PNG (W3C PNG, third edition, §9) with 8 bits of red, green and blue, with or without alpha, which is dropped, or with a
 * palette.
 * @throws ViommuError `EINVAL` it is of another kind.
 */
export function readPng(bytes: Uint8Array): Pixels {
  const all = [...chunks(Buffer.from(bytes))];
  const part = (type: string) => all.find((c) => c.type === type)?.data;
  const header = part('IHDR')!;
  const [width, height, depth, kind] = [header.readUInt32BE(0), header.readUInt32BE(4), header[8], header[9]!];
  const samples = { 2: 3, 6: 4, 3: 1 }[kind];
  if (depth !== 8 || samples === undefined || header[12] !== 0)
    throw new ViommuError('EINVAL', 'caller', 'a PNG of 8 bits, not interlaced, is expected', { kind });
  const data = inflateSync(Buffer.concat(all.filter((c) => c.type === 'IDAT').map((c) => c.data)));
  const palette = part('PLTE');
  const line = width * samples;
  const raw = new Uint8Array(height * line);
  const rgb = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    const filter = data[y * (line + 1)]!;
    for (let x = 0; x < line; x++) {
      const left = x >= samples ? raw[y * line + x - samples]! : 0;
      const up = y > 0 ? raw[(y - 1) * line + x]! : 0;
      const corner = x >= samples && y > 0 ? raw[(y - 1) * line + x - samples]! : 0;
      const guess = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter]!;
      raw[y * line + x] = data[y * (line + 1) + 1 + x]! + guess;
    }
    for (let x = 0; x < width; x++)
      for (let c = 0; c < 3; c++) {
        const v = raw[y * line + x * samples + (samples === 1 ? 0 : c)]!;
        rgb[(y * width + x) * 3 + c] = palette === undefined ? v : palette[v * 3 + c]!;
      }
  }
  return { width, height, rgb };
}

function distance(a: number, b: number): number {
  return [16, 8, 0].reduce((sum, s) => sum + (((a >> s) & 0xff) - ((b >> s) & 0xff)) ** 2, 0);
}

/**
 * Which palette entry each colour gets: the most frequent colours are kept, then those furthest from all that are, so that a small
 * mark keeps its colour; the others become the nearest of them.
 */
function paletteOf(rgb: Uint8Array): {
  readonly palette: readonly number[];
  readonly index: ReadonlyMap<number, number>;
} {
  const counts = new Map<number, number>();
  for (let at = 0; at < rgb.length; at += 3) {
    const colour = (rgb[at]! << 16) | (rgb[at + 1]! << 8) | rgb[at + 2]!;
    counts.set(colour, (counts.get(colour) ?? 0) + 1);
  }
  const sorted = [...counts].toSorted((a, b) => b[1] - a[1]).map(([colour]) => colour);
  const palette = sorted.slice(0, FREQUENT);
  const index = new Map(palette.map((colour, n) => [colour, n]));
  const left = sorted.slice(FREQUENT).map((colour) => ({ colour, nearest: 0, far: Number.POSITIVE_INFINITY }));
  const look = (n: number) => {
    for (const c of left) {
      const d = distance(c.colour, palette[n]!);
      if (d < c.far) [c.far, c.nearest] = [d, n];
    }
  };
  for (let n = 0; n < palette.length; n++) look(n);
  while (palette.length < COLOURS && left.length > 0) {
    const furthest = left.reduce((best, c) => (c.far > best.far ? c : best));
    if (furthest.far === 0) break;
    look(palette.push(furthest.colour) - 1);
  }
  for (const c of left) index.set(c.colour, c.nearest);
  return { palette, index };
}

function chunk(type: string, data: Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const out = Buffer.alloc(body.length + 8);
  out.writeUInt32BE(data.length, 0);
  body.copy(out, 4);
  out.writeUInt32BE(crc32(body), body.length + 4);
  return out;
}

/** Writes a PNG with a palette of the 256 most frequent colours: a picture of a page takes a quarter of its true colours. */
export function smallPng({ width, height, rgb }: Pixels): Uint8Array {
  const { palette, index } = paletteOf(rgb);
  const lines = Buffer.alloc(height * (width + 1));
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const at = (y * width + x) * 3;
      lines[y * (width + 1) + 1 + x] = index.get((rgb[at]! << 16) | (rgb[at + 1]! << 8) | rgb[at + 2]!)!;
    }
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 3, 0, 0, 0], 8);
  const colours = Buffer.from(palette.flatMap((c) => [(c >> 16) & 0xff, (c >> 8) & 0xff, c & 0xff]));
  return Buffer.concat([
    SIGNATURE,
    chunk('IHDR', header),
    chunk('PLTE', colours),
    chunk('IDAT', deflateSync(lines, { level: 9, memLevel: 9 })),
    chunk('IEND', new Uint8Array(0)),
  ]);
}
