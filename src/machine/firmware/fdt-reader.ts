import { ViommuError } from '../../core/errors.ts';
import type { DtNode, DtValue } from './devicetree.ts';

const MAGIC = 0xd00d_feed;
const TOKEN = { BEGIN: 1, END_NODE: 2, PROP: 3, NOP: 4, END: 9 } as const;

/**
 * Reads a flattened device tree (Devicetree Specification §5) into nodes whose property values are bytes.
 * @throws ViommuError `E_MISSING` when it is none, or ends early.
 */
export function readDtb(blob: Uint8Array): DtNode {
  const view = new DataView(blob.buffer, blob.byteOffset, blob.length);
  const bad = (what: string, at: number) =>
    new ViommuError('E_MISSING', 'caller', `not a device tree: ${what}`, { at });
  if (blob.length < 40 || view.getUint32(0) !== MAGIC) throw bad('no header', 0);
  if (view.getUint32(4) > blob.length) throw bad('it is cut short', blob.length);
  const strings = view.getUint32(12);
  let p = view.getUint32(8);
  const word = () => {
    if (p + 4 > blob.length) throw bad('it ends in the middle of its structure', p);
    p += 4;
    return view.getUint32(p - 4);
  };
  const text = (at: number) => {
    const end = blob.indexOf(0, at);
    if (end < 0) throw bad('an unterminated string', at);
    return new TextDecoder().decode(blob.subarray(at, end));
  };
  const node = (): DtNode => {
    const name = text(p);
    p += (new TextEncoder().encode(name).length + 4) & ~3;
    const properties: Record<string, DtValue> = {};
    const children: DtNode[] = [];
    for (;;) {
      switch (word()) {
        case TOKEN.PROP: {
          const length = word();
          const key = text(strings + word());
          if (p + length > blob.length) throw bad(`property ${key} is cut short`, p);
          // A copy of its own, also when the blob is a Node Buffer (whose slice shares memory).
          properties[key] = length === 0 ? true : Uint8Array.from(blob.subarray(p, p + length));
          p += (length + 3) & ~3;
          break;
        }
        case TOKEN.BEGIN:
          children.push(node());
          break;
        case TOKEN.END_NODE:
          return { name, properties, children };
        case TOKEN.NOP:
          break;
        default:
          throw bad('an unknown token', p - 4);
      }
    }
  };
  let token = word();
  while (token === TOKEN.NOP) token = word();
  if (token !== TOKEN.BEGIN) throw bad('no root node', p - 4);
  return node();
}
