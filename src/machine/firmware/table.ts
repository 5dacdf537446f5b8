import { ViommuError } from '../../core/errors.ts';

/** Who made a table: the header fields that a comparison with another firmware's tables leaves out (ACPI §5.2.6). */
export interface Maker {
  /** At most 6 characters. */
  readonly oemId: string;
  /** At most 8 characters. */
  readonly oemTableId: string;
  readonly oemRevision: number;
  /** At most 4 characters. */
  readonly creatorId: string;
  readonly creatorRevision: number;
}

export const VIOMMU_MAKER: Maker = {
  oemId: 'VIOMMU',
  oemTableId: 'VIOMMU',
  oemRevision: 1,
  creatorId: 'VIOM',
  creatorRevision: 1,
};

/** Little-endian bytes of a growing table. */
export class TableBytes {
  #bytes: number[] = [];

  get length(): number {
    return this.#bytes.length;
  }

  u8(v: number): this {
    return this.#le(v, 1);
  }
  u16(v: number): this {
    return this.#le(v, 2);
  }
  u32(v: number): this {
    return this.#le(v, 4);
  }
  /** Addresses and lengths: exact to 2^53. */
  u64(v: number): this {
    return this.#le(v % 2 ** 32, 4).#le(Math.floor(v / 2 ** 32), 4);
  }
  zeros(count: number): this {
    for (let i = 0; i < count; i++) this.#bytes.push(0);
    return this;
  }
  append(bytes: Uint8Array): this {
    for (const b of bytes) this.#bytes.push(b);
    return this;
  }
  text(s: string, width: number, fill = ' '): this {
    if (s.length > width) {
      throw new ViommuError('EINVAL', 'caller', `"${s}" does not fit into ${width} characters of an ACPI header`);
    }
    for (const c of s.padEnd(width, fill)) this.#bytes.push(c.charCodeAt(0));
    return this;
  }
  #le(v: number, bytes: number): this {
    if (!(v >= 0 && v < 2 ** (8 * bytes) && Number.isInteger(v))) {
      throw new ViommuError('ERANGE', 'caller', `not an unsigned ${8 * bytes}-bit number`, { value: v });
    }
    for (let i = 0; i < bytes; i++) this.#bytes.push(Math.floor(v / 2 ** (8 * i)) % 256);
    return this;
  }
  done(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }
}

/** An ACPI system description table: header, body, length and checksum (ACPI §5.2.6). */
export function acpiTable(signature: string, revision: number, body: Uint8Array, maker: Maker): Uint8Array {
  const table = new TableBytes()
    .text(signature, 4)
    .u32(36 + body.length)
    .u8(revision)
    .u8(0)
    .text(maker.oemId, 6)
    .text(maker.oemTableId, 8)
    .u32(maker.oemRevision)
    .text(maker.creatorId, 4)
    .u32(maker.creatorRevision)
    .append(body)
    .done();
  table[9] = -table.reduce((sum, b) => sum + b, 0) & 0xff;
  return table;
}
