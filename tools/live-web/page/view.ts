import type { HostGraph } from '../../live-v86/graph.ts';
import { type Step, type Story, wordsOf } from '../../live-v86/story.ts';

const SVG = 'http://www.w3.org/2000/svg';
const BOX = { width: 190, height: 26, gapX: 60, gapY: 12 } as const;

function byId<E extends Element>(id: string): E {
  return document.getElementById(id) as unknown as E;
}

/** Puts the last lines on the page; scrolled to the end unless somebody reads further up. */
function follow(element: HTMLElement, change: () => void): void {
  const atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
  change();
  if (atEnd) element.scrollTop = element.scrollHeight;
}

export function showStatus(text: string): void {
  byId<HTMLElement>('status').textContent = text;
}

export function showConsole(lines: readonly string[]): void {
  const pre = byId<HTMLElement>('console');
  follow(pre, () => {
    pre.textContent = lines.slice(-500).join('\n');
  });
}

function row(step: Step): HTMLLIElement {
  const li = document.createElement('li');
  const span = (className: string, text: string) => {
    const e = document.createElement('span');
    e.className = className;
    e.textContent = text;
    li.append(e, ' ');
  };
  span('guest', wordsOf(step));
  for (const h of step.host) span('host', `→ ${h}`);
  return li;
}

export function showStory(story: Story): void {
  const list = byId<HTMLElement>('story');
  follow(list, () => list.replaceChildren(...story.steps.map(row)));
}

/** Draws three columns: functions, HWPTs (nested ones before what they are on), IOASes. */
export function showGraph(graph: HostGraph): void {
  const svg = byId<SVGSVGElement>('graph');
  svg.replaceChildren();
  const columns: string[][] = [[], [], [], []];
  const key = (id: number) => `o${id}`;
  const place = new Map<string, { x: number; y: number }>();
  const label = new Map<string, [text: string, className: string]>();
  const put = (column: number, id: string, text: string, className: string) => {
    columns[column]!.push(id);
    label.set(id, [text, className]);
  };
  for (const d of graph.devices.values()) put(0, `d${d.id}`, d.name, 'device');
  for (const h of graph.hwpts.values()) {
    if (h.nested) put(1, key(h.id), `nested HWPT ${h.id}`, 'nested');
    else put(2, key(h.id), `HWPT ${h.id}`, 'paging');
  }
  for (const i of graph.ioases) put(3, key(i), `IOAS ${i}`, 'ioas');
  const used = columns.filter((ids) => ids.length > 0);
  const [across, down] = [used.length, Math.max(1, ...used.map((ids) => ids.length))];
  const width = 20 + across * (BOX.width + BOX.gapX) - BOX.gapX;
  svg.setAttribute('viewBox', `0 0 ${width} ${20 + down * (BOX.height + BOX.gapY)}`);
  svg.setAttribute('preserveAspectRatio', 'xMinYMin meet');
  used.forEach((ids, c) => {
    ids.forEach((id, r) => {
      place.set(id, { x: 10 + c * (BOX.width + BOX.gapX), y: 10 + r * (BOX.height + BOX.gapY) });
    });
  });
  const line = (from: string, to: string) => {
    const [a, b] = [place.get(from), place.get(to)];
    if (a === undefined || b === undefined) return;
    const e = document.createElementNS(SVG, 'line');
    const set = (name: string, v: number) => e.setAttribute(name, String(v));
    set('x1', a.x + BOX.width);
    set('y1', a.y + BOX.height / 2);
    set('x2', b.x);
    set('y2', b.y + BOX.height / 2);
    svg.append(e);
  };
  for (const d of graph.devices.values()) for (const pt of d.attached.values()) line(`d${d.id}`, key(pt));
  for (const h of graph.hwpts.values()) line(key(h.id), key(h.on));
  for (const [id, at] of place) {
    const [text, className] = label.get(id)!;
    const g = document.createElementNS(SVG, 'g');
    g.setAttribute('class', className);
    const rect = document.createElementNS(SVG, 'rect');
    for (const [name, v] of Object.entries({ x: at.x, y: at.y, width: BOX.width, height: BOX.height, rx: 4 })) {
      rect.setAttribute(name, String(v));
    }
    const t = document.createElementNS(SVG, 'text');
    t.setAttribute('x', String(at.x + 8));
    t.setAttribute('y', String(at.y + 17));
    t.textContent = text;
    g.append(rect, t);
    svg.append(g);
  }
}

/** What the page's buttons and its input line do. */
export function onActions(send: (command: string) => void, stray: () => void): void {
  for (const b of document.querySelectorAll<HTMLButtonElement>('button[data-send]')) {
    b.addEventListener('click', () => send(b.dataset.send!));
  }
  byId<HTMLButtonElement>('stray').addEventListener('click', stray);
  const input = byId<HTMLInputElement>('input');
  byId<HTMLFormElement>('line').addEventListener('submit', (e) => {
    e.preventDefault();
    if (input.value !== '') send(input.value);
    input.value = '';
  });
}
