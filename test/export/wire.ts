/** Protobuf's wire format, read by hand: what the exporter's library wrote is checked without it. */

export type WireField = { readonly id: number; readonly value: bigint | Uint8Array };

export function wireFields(bytes: Uint8Array): WireField[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const fields: WireField[] = [];
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const b = bytes[at++]!;
      value |= BigInt(b & 0x7f) << shift;
      if (b < 0x80) return value;
    }
  };
  while (at < bytes.length) {
    const tag = Number(varint());
    const id = tag >>> 3;
    switch (tag & 7) {
      case 0:
        fields.push({ id, value: varint() });
        break;
      case 1:
        fields.push({ id, value: view.getBigUint64(at, true) });
        at += 8;
        break;
      case 2: {
        const length = Number(varint());
        fields.push({ id, value: bytes.subarray(at, at + length) });
        at += length;
        break;
      }
      default:
        throw new Error(`wire type ${tag & 7} at ${at}`);
    }
  }
  return fields;
}

/** Every value of field `id`. */
export function values(fields: readonly WireField[], id: number): (bigint | Uint8Array)[] {
  return fields.filter((f) => f.id === id).map((f) => f.value);
}

/** Field `id` as a message. */
export function submessage(fields: readonly WireField[], id: number): WireField[] | null {
  const [value] = values(fields, id);
  return value instanceof Uint8Array ? wireFields(value) : null;
}

export function text(fields: readonly WireField[], id: number): string {
  const [value] = values(fields, id);
  return value instanceof Uint8Array ? new TextDecoder().decode(value) : '';
}
