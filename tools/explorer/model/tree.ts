import { entriesOf, type Paging, rangesOf, type Words } from './paging.ts';
import { hex, type StreamEntry, type StreamSpace } from './streams.ts';

/** What a node of the tree of tables stands for. */
export type TreeKind = 'stream' | 'space' | 'table' | 'range' | 'note';

/** A node of the tree that begins at the stream or root table. Children are looked up when somebody opens it. */
export interface TreeNode {
  /** Its place in the tree, which stays the same while the guest works: `0x100/context/TTB0/0x40000000`. */
  readonly id: string;
  readonly kind: TreeKind;
  readonly label: string;
  readonly detail: string;
  /** Where it lies in guest memory (bytes); -1: nowhere in particular. */
  readonly at: number;
  /** Null: it has children that nobody asked for. Empty: it has none. */
  readonly children: readonly TreeNode[] | null;
}

/** Ranges shown of one table. */
const MOST = 512;

function size(bytes: bigint): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let n = 0;
  let left = bytes;
  for (; left >= 1024n && left % 1024n === 0n && n < units.length - 1; n++) left /= 1024n;
  return `${left} ${units[n]}`;
}

/** Grows the tree of tables where nodes are opened. */
export class TableTree {
  readonly #words: Words;
  readonly #opened: ReadonlySet<string>;

  /** @param opened ids of the nodes whose children are wanted. */
  constructor(words: Words, opened: ReadonlySet<string>) {
    this.#words = words;
    this.#opened = opened;
  }

  streams(entries: readonly StreamEntry[]): TreeNode[] {
    return entries.map((e) => {
      const range = e.first === e.last ? `stream ${hex(e.first)}` : `streams ${hex(e.first)} to ${hex(e.last)}`;
      const label = e.name === '' ? range : `${range} (${e.name})`;
      const id = hex(e.first);
      const children = () => e.spaces.map((s) => this.#space(id, s));
      return this.#node(id, 'stream', label, e.detail, e.at, e.spaces.length > 0 ? children : null);
    });
  }

  #node(
    id: string,
    kind: TreeKind,
    label: string,
    detail: string,
    at: number,
    children: (() => readonly TreeNode[]) | null,
  ): TreeNode {
    const found = children === null ? [] : this.#opened.has(id) ? children() : null;
    return { id, kind, label, detail, at, children: found };
  }

  #space(parent: string, s: StreamSpace): TreeNode {
    const id = `${parent}/${s.label}`;
    const children = () => s.tables.map((t) => this.#table(`${id}/${t.what}`, t, 0, t.base, t.from, t.what));
    return this.#node(id, 'space', s.label, s.detail, s.at, s.tables.length > 0 ? children : null);
  }

  #table(id: string, paging: Paging, depth: number, table: number, from: bigint, label: string): TreeNode {
    const level = paging.levels[depth]!;
    const detail = `${level.name}, ${level.entries} entries of ${size(1n << BigInt(level.shift))}`;
    return this.#node(id, 'table', label, detail, table, () => this.#entries(id, paging, depth, table, from));
  }

  #entries(id: string, paging: Paging, depth: number, table: number, from: bigint): readonly TreeNode[] {
    const entries = entriesOf(this.#words, paging, depth, table, from);
    const nodes: TreeNode[] = [];
    for (let n = 0; n < entries.length; n++) {
      const e = entries[n]!;
      if (nodes.length === MOST) {
        nodes.push({
          id: `${id}/more`,
          kind: 'note',
          label: `and ${entries.length - n} more entries`,
          detail: '',
          at: -1,
          children: [],
        });
        break;
      }
      if (e.kind === 'table') {
        const label = `${hex(e.input)} … ${hex(e.input + e.bytes - 1n)}`;
        nodes.push(this.#table(`${id}/${hex(e.input)}`, paging, depth + 1, e.to, e.input, label));
        continue;
      }
      let end = n;
      while (entries[end + 1]?.kind === 'leaf' && rangesOf(entries.slice(n, end + 2)).length === 1) end++;
      const [range] = rangesOf(entries.slice(n, end + 1));
      n = end;
      const last = e.input + range!.bytes - 1n;
      nodes.push({
        id: `${id}/${hex(e.input)}`,
        kind: 'range',
        label: `${hex(e.input)} … ${hex(last)} → ${hex(e.to)}`,
        detail: `${e.rights}, ${size(range!.bytes)}`,
        at: e.at,
        children: [],
      });
    }
    if (nodes.length === 0)
      nodes.push({ id: `${id}/none`, kind: 'note', label: 'nothing mapped', detail: '', at: -1, children: [] });
    return nodes;
  }
}
