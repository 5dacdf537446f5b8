import { TableBytes } from './table.ts';

/**
 * The little of ACPI machine language (ACPI §20.2) that describes a PCIe host bridge and reserved windows. Every function
 * returns the bytes of one term; terms nest by passing lists.
 */
export type Aml = Uint8Array;

const OP = {
  SCOPE: 0x10,
  ZERO: 0x00,
  ONE: 0x01,
  NAME: 0x08,
  BYTE: 0x0a,
  WORD: 0x0b,
  DWORD: 0x0c,
  BUFFER: 0x11,
  PACKAGE: 0x12,
  METHOD: 0x14,
  ARG0: 0x68,
  RETURN: 0xa4,
  EXT: 0x5b,
  DEVICE: 0x82,
} as const;

function join(...terms: Aml[]): Aml {
  const b = new TableBytes();
  for (const t of terms) b.append(t);
  return b.done();
}

/** PkgLength: the length of itself and what follows (§20.2.4). */
function pkg(content: Aml): Aml {
  for (let extra = 0; extra < 4; extra++) {
    const length = content.length + 1 + extra;
    if (extra === 0 ? length < 0x40 : length < 1 << (4 + 8 * extra)) {
      const head = extra === 0 ? [length] : [(extra << 6) | (length & 0xf)];
      for (let i = 0; i < extra; i++) head.push((length >>> (4 + 8 * i)) & 0xff);
      return join(Uint8Array.from(head), content);
    }
  }
  throw new RangeError('an AML package holds less than 2^28 bytes');
}

/** A name path: `PCI0`, `_SB.PCI0` (a leading backslash starts at the root). */
export function path(name: string): Aml {
  const root = name.startsWith('\\');
  const segs = name.slice(root ? 1 : 0).split('.');
  const b = new TableBytes();
  if (root) b.u8(0x5c);
  if (segs.length === 2) b.u8(0x2e);
  else if (segs.length > 2) b.u8(0x2f).u8(segs.length);
  for (const s of segs) b.text(s, 4, '_');
  return b.done();
}

export function integer(v: number): Aml {
  if (v <= 1) return Uint8Array.of(v === 0 ? OP.ZERO : OP.ONE);
  const b = new TableBytes();
  if (v < 0x100) return b.u8(OP.BYTE).u8(v).done();
  return (v < 0x1_0000 ? b.u8(OP.WORD).u16(v) : b.u8(OP.DWORD).u32(v)).done();
}

/** A compressed EISA id such as PNP0A08 (§19.3.4). */
export function eisaId(id: string): Aml {
  const letter = (i: number) => id.charCodeAt(i) - 0x40;
  const vendor = (letter(0) << 10) | (letter(1) << 5) | letter(2);
  const product = Number.parseInt(id.slice(3), 16);
  // Big-endian in memory.
  return Uint8Array.of(OP.DWORD, vendor >>> 8, vendor & 0xff, product >>> 8, product & 0xff);
}

export const name = (n: string, value: Aml): Aml => join(Uint8Array.of(OP.NAME), path(n), value);
export const device = (n: string, terms: readonly Aml[]): Aml =>
  join(Uint8Array.of(OP.EXT, OP.DEVICE), pkg(join(path(n), ...terms)));
/** Puts terms under a name that exists already. */
export const scope = (n: string, terms: readonly Aml[]): Aml =>
  join(Uint8Array.of(OP.SCOPE), pkg(join(path(n), ...terms)));
export const list = (items: readonly Aml[]): Aml =>
  join(Uint8Array.of(OP.PACKAGE), pkg(join(Uint8Array.of(items.length), ...items)));
/** A method that returns its argument `arg` (0-based). */
export const methodReturningArg = (n: string, args: number, arg: number): Aml =>
  join(Uint8Array.of(OP.METHOD), pkg(join(path(n), Uint8Array.of(args, OP.RETURN, OP.ARG0 + arg))));

/** A resource template: a buffer of descriptors with the end tag (§6.4). */
export function resources(descriptors: readonly Aml[]): Aml {
  const body = join(...descriptors, Uint8Array.of(0x79, 0));
  return join(Uint8Array.of(OP.BUFFER), pkg(join(integer(body.length), body)));
}

/** DWordMemory, producer, fixed, non-cacheable, read-write. */
export const memoryWindow = (base: number, last: number): Aml => addressSpace(0x87, 4, 0, 0x01, base, last);
/** WordIO, producer, fixed, entire range. */
export const ioWindow = (base: number, last: number): Aml => addressSpace(0x88, 2, 1, 0x03, base, last);
/** WordBusNumber, producer, fixed. */
export const busWindow = (first: number, last: number): Aml => addressSpace(0x88, 2, 2, 0x00, first, last);

function addressSpace(tag: number, width: 2 | 4, type: number, specific: number, base: number, last: number): Aml {
  const b = new TableBytes()
    .u8(tag)
    .u16(3 + 5 * width)
    .u8(type)
    .u8(0x0c)
    .u8(specific);
  const put = (v: number) => (width === 2 ? b.u16(v) : b.u32(v));
  put(0);
  put(base);
  put(last);
  put(0);
  put(last - base + 1);
  return b.done();
}

/** IO port range the device itself decodes (16-bit decode). */
export const ioPorts = (base: number, length: number): Aml =>
  new TableBytes().u8(0x47).u8(1).u16(base).u16(base).u8(1).u8(length).done();
/** Memory32Fixed, read-write. */
export const memoryFixed = (base: number, bytes: number): Aml =>
  new TableBytes().u8(0x86).u16(9).u8(1).u32(base).u32(bytes).done();
