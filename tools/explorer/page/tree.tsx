import { useRef, useState } from 'preact/hooks';
import type { TreeNode } from '../model/tree.ts';
import { hex } from './format.ts';

interface Props {
  readonly label: string;
  readonly nodes: readonly TreeNode[];
  readonly opened: readonly string[];
  readonly onOpened: (opened: readonly string[]) => void;
}

interface Line {
  readonly node: TreeNode;
  readonly depth: number;
  readonly parent: string;
  readonly open: boolean;
  readonly leaf: boolean;
}

function linesOf(nodes: readonly TreeNode[], depth: number, parent: string): Line[] {
  return nodes.flatMap((node) => {
    const leaf = node.children !== null && node.children.length === 0;
    const open = node.children !== null && !leaf;
    return [{ node, depth, parent, open, leaf }, ...linesOf(node.children ?? [], depth + 1, node.id)];
  });
}

/** A tree whose branches are looked up when they are opened, with the keys that trees have. */
export function Tree({ label, nodes, opened, onOpened }: Props) {
  const lines = linesOf(nodes, 0, '');
  const [at, setAt] = useState('');
  const box = useRef<HTMLDivElement>(null);
  const current = lines.some((l) => l.node.id === at) ? at : (lines[0]?.node.id ?? '');
  const open = (id: string) => onOpened([...opened, id]);
  const close = (id: string) => onOpened(opened.filter((o) => o !== id && !o.startsWith(`${id}/`)));
  const go = (id: string | undefined) => {
    if (id === undefined) return;
    setAt(id);
    requestAnimationFrame(() => box.current?.querySelector<HTMLElement>('[tabindex="0"]')?.focus());
  };
  const key = (e: KeyboardEvent) => {
    const n = lines.findIndex((l) => l.node.id === current);
    const line = lines[n];
    if (line === undefined) return;
    switch (e.key) {
      case 'ArrowDown':
        go(lines[n + 1]?.node.id);
        break;
      case 'ArrowUp':
        go(lines[n - 1]?.node.id);
        break;
      case 'ArrowRight':
        if (line.open) go(lines[n + 1]?.node.id);
        else if (!line.leaf) open(current);
        break;
      case 'ArrowLeft':
        if (line.open) close(current);
        else if (line.parent !== '') go(line.parent);
        break;
      case 'Home':
        go(lines[0]?.node.id);
        break;
      case 'End':
        go(lines.at(-1)?.node.id);
        break;
      case 'Enter':
      case ' ':
        if (!line.leaf) (line.open ? close : open)(current);
        break;
      default:
        return;
    }
    e.preventDefault();
  };
  return (
    <div ref={box} class="tree" role="tree" aria-label={label} onKeyDown={key}>
      {lines.map(({ node, depth, open: isOpen, leaf }) => (
        // biome-ignore lint/a11y/useKeyWithClickEvents: the tree takes the keys
        <div
          key={node.id}
          role="treeitem"
          aria-level={depth + 1}
          aria-expanded={leaf ? undefined : isOpen}
          aria-selected={node.id === current}
          tabIndex={node.id === current ? 0 : -1}
          class={`node ${node.kind}`}
          style={{ paddingLeft: `${depth * 18 + 4}px` }}
          onFocus={() => setAt(node.id)}
          onClick={() => {
            setAt(node.id);
            if (!leaf) (isOpen ? close : open)(node.id);
          }}
        >
          <span class="twist" aria-hidden="true">
            {leaf ? '' : isOpen ? '▾' : '▸'}
          </span>
          <span class={node.kind === 'range' || node.kind === 'table' ? 'mono' : ''}>{node.label}</span>{' '}
          <span class="faint">
            {node.detail}
            {node.at >= 0 && node.kind !== 'range' ? `, at ${hex(node.at)}` : ''}
          </span>
        </div>
      ))}
    </div>
  );
}
