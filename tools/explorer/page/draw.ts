import type { Finding } from '../../../src/sanitize/index.ts';
import { lowerBound, type RunIndex, type View } from './lines.ts';
import type { Palette } from './palette.ts';

/** Height of a row, and of the axis above them (CSS pixels). */
export const ROW = 24;
export const AXIS = 22;

/** What the timeline shows. */
export interface Scene {
  readonly index: RunIndex;
  readonly view: View;
  /** -1: nothing is selected. */
  readonly selected: number;
  /** Moments a search found; null: nobody searched. */
  readonly found: Int32Array | null;
  readonly findings: readonly Finding[];
  /** Events of the marks A and B; -1: not set. */
  readonly a: number;
  readonly b: number;
  readonly palette: Palette;
  readonly width: number;
}

const MARK = 13;
const MOST_ARROWS = 40;
const MOST_CAUSES = 12;

/** Height of all of it. */
export function heightOf(index: RunIndex, findings: readonly Finding[]): number {
  return AXIS + (index.rows.length + (findings.length > 0 ? 1 : 0)) * ROW;
}

/** First row below the findings' own. */
function rowsTop(scene: Scene): number {
  return AXIS + (scene.findings.length > 0 ? ROW : 0);
}

/** Middle of a moment, from the left (CSS pixels). */
export function xOf(scene: Pick<Scene, 'view' | 'width'>, n: number): number {
  return ((n + 0.5 - scene.view.from) / (scene.view.to - scene.view.from)) * scene.width;
}

function yOf(scene: Scene, n: number): number {
  return rowsTop(scene) + scene.index.run.row[n]! * ROW + ROW / 2;
}

/** The row at a place from the top; -1: none. */
export function rowAt(scene: Pick<Scene, 'index' | 'findings'>, y: number): number {
  const row = Math.floor((y - AXIS) / ROW) - (scene.findings.length > 0 ? 1 : 0);
  return row >= 0 && row < scene.index.rows.length ? row : -1;
}

/** The finding at a place: its first or last end, or the line between; null: none is there. */
export function findingAt(scene: Scene, x: number, y: number): Finding | null {
  if (scene.findings.length === 0 || y < AXIS || y >= AXIS + ROW) return null;
  let best: Finding | null = null;
  let nearest = 8;
  for (const f of scene.findings)
    for (const event of [f.events[0] ?? f.last, f.last]) {
      const distance = Math.abs(xOf(scene, scene.index.ofEvent(event)) - x);
      if (distance < nearest) [best, nearest] = [f, distance];
    }
  return best;
}

/** Draws all of it. */
export function draw(g: CanvasRenderingContext2D, scene: Scene): void {
  const { palette: p, width, index } = scene;
  const height = heightOf(index, scene.findings);
  g.fillStyle = p.background;
  g.fillRect(0, 0, width, height);
  const top = rowsTop(scene);
  for (let row = 0; row < index.rows.length; row += 2) {
    g.fillStyle = p.stripe;
    g.fillRect(0, top + row * ROW, width, ROW);
  }
  axis(g, scene, height);
  if (scene.found !== null) found(g, scene, scene.found);
  for (let row = 0; row < index.rows.length; row++) drawRow(g, scene, row, top + row * ROW);
  marks(g, scene, height);
  if (scene.findings.length > 0) findings(g, scene);
  if (scene.selected >= 0) selection(g, scene, height);
}

/** Events at round numbers. */
function axis(g: CanvasRenderingContext2D, { index, view, palette: p, width }: Scene, height: number): void {
  const { event, moments } = index.run;
  const first = event[Math.min(moments - 1, Math.floor(view.from))] ?? 0;
  const last = event[Math.min(moments - 1, Math.ceil(view.to) - 1)] ?? 0;
  const wanted = Math.max(1, (last - first) / Math.max(1, width / 130));
  const power = 10 ** Math.floor(Math.log10(wanted));
  const step = Math.max(1, [1, 2, 5, 10].map((s) => s * power).find((s) => s >= wanted) ?? wanted);
  g.font = '11px system-ui, sans-serif';
  g.textBaseline = 'middle';
  g.textAlign = 'left';
  let free = -1000;
  for (let e = Math.ceil(first / step) * step; e <= last; e += step) {
    const x = ((index.ofEvent(e) - view.from) / (view.to - view.from)) * width;
    g.fillStyle = p.line;
    g.fillRect(Math.round(x), AXIS - 6, 1, height - AXIS + 6);
    if (x < free || x > width - 40) continue;
    g.fillStyle = p.faint;
    g.fillText(e.toLocaleString('en'), Math.max(2, x + 4), AXIS / 2);
    free = x + 90;
  }
}

function found(g: CanvasRenderingContext2D, scene: Scene, list: Int32Array): void {
  const { view, width, palette: p } = scene;
  g.fillStyle = p.found;
  let last = -2;
  for (let at = lowerBound(list, Math.floor(view.from)); at < list.length && list[at]! < view.to; at++) {
    const x = Math.round(xOf(scene, list[at]!));
    if (x === last || x < 0 || x > width) continue;
    g.fillRect(x - 1, AXIS - 5, 2, 5);
    last = x;
  }
}

/** One row: each moment a mark where there is room, else columns whose depth is how many there are. */
function drawRow(g: CanvasRenderingContext2D, scene: Scene, row: number, y: number): void {
  const { index, view, width, palette: p } = scene;
  const list = index.rows[row]!;
  const start = lowerBound(list, Math.floor(view.from));
  const end = lowerBound(list, Math.ceil(view.to), start);
  const scale = width / (view.to - view.from);
  g.fillStyle = p.lanes[index.run.rows[row]!.lane];
  if (end - start <= width) {
    const wide = Math.max(2, Math.min(scale - 2, 400));
    for (let at = start; at < end; at++) {
      const x = xOf(scene, list[at]!);
      g.fillRect(x - wide / 2, y + (ROW - MARK) / 2, wide, MARK);
    }
    if (scale > 46) names(g, scene, list, start, end, y, wide);
    return;
  }
  let at = start;
  for (let x = 0; x < width && at < end; x++) {
    const stop = lowerBound(list, Math.ceil(view.from + (x + 1) / scale - 0.5), at);
    if (stop === at) continue;
    const many = (stop - at) / Math.max(1, 1 / scale);
    g.globalAlpha = Math.min(1, 0.35 + 0.65 * many);
    g.fillRect(x, y + (ROW - MARK) / 2, 1, MARK);
    at = stop;
  }
  g.globalAlpha = 1;
}

function names(
  g: CanvasRenderingContext2D,
  { index, palette: p, view, width }: Scene,
  list: Int32Array,
  start: number,
  end: number,
  y: number,
  wide: number,
): void {
  g.save();
  g.fillStyle = p.onMark;
  g.font = '10.5px system-ui, sans-serif';
  g.textAlign = 'center';
  g.textBaseline = 'middle';
  for (let at = start; at < end; at++) {
    const n = list[at]!;
    const x = xOf({ view, width }, n);
    const text = index.run.names[index.run.name[n]!]!.replace(/^SMMU_CMD_/, '');
    const most = Math.floor(wide / 6);
    g.fillText(text.length > most ? `${text.slice(0, Math.max(1, most - 1))}…` : text, x, y + ROW / 2 + 0.5, wide - 4);
  }
  g.restore();
}

function marks(g: CanvasRenderingContext2D, scene: Scene, height: number): void {
  const { palette: p, index } = scene;
  const set = [
    [scene.a, 'A', p.markA],
    [scene.b, 'B', p.markB],
  ] as const;
  for (const [event, name, colour] of set) {
    if (event < 0) continue;
    const x = Math.round(xOf(scene, index.ofEvent(event)));
    g.fillStyle = colour;
    g.fillRect(x, 0, 2, height);
    g.fillRect(x, 0, 16, 16);
    g.fillStyle = p.onMark;
    g.font = 'bold 11px system-ui, sans-serif';
    g.textAlign = 'center';
    g.textBaseline = 'middle';
    g.fillText(name, x + 8, 8.5);
  }
}

/** Each finding: both ends, joined. */
function findings(g: CanvasRenderingContext2D, scene: Scene): void {
  const { palette: p, index, width } = scene;
  const y = AXIS + ROW / 2;
  for (const f of scene.findings) {
    const [from, to] = [f.events[0] ?? f.last, f.last].map((e) => xOf(scene, index.ofEvent(e))) as [number, number];
    g.fillStyle = g.strokeStyle = f.severity === 'error' ? p.error : f.severity === 'warning' ? p.warning : p.faint;
    g.lineWidth = 2;
    g.beginPath();
    g.moveTo(Math.max(-10, from), y);
    g.lineTo(Math.min(width + 10, to), y);
    g.stroke();
    for (const [x, back] of [
      [from, -1],
      [to, 1],
    ] as const) {
      g.beginPath();
      g.moveTo(x - 5 * back, y - 6);
      g.lineTo(x + 4 * back, y);
      g.lineTo(x - 5 * back, y + 6);
      g.closePath();
      g.fill();
    }
  }
}

function selection(g: CanvasRenderingContext2D, scene: Scene, height: number): void {
  const { selected, index, palette: p } = scene;
  const x = xOf(scene, selected);
  g.strokeStyle = p.selected;
  g.globalAlpha = 0.25;
  g.fillStyle = p.selected;
  g.fillRect(Math.round(x), AXIS, 1, height - AXIS);
  g.globalAlpha = 1;
  const causes = index.causes(selected, MOST_CAUSES);
  let to = selected;
  for (const from of causes) {
    arrow(g, scene, from, to, p.cause);
    to = from;
  }
  for (const n of index.effects(selected).subarray(0, MOST_ARROWS)) arrow(g, scene, selected, n, p.effect);
  const wide = Math.max(2, Math.min(scene.width / (scene.view.to - scene.view.from) - 2, 400));
  g.lineWidth = 2;
  g.strokeStyle = p.selected;
  // The first and the last moment of a run lie at the edges: their frame is moved in, so that it is seen on every side.
  const left = Math.max(1, Math.min(scene.width - wide - 7, x - wide / 2 - 3));
  g.strokeRect(left, yOf(scene, selected) - MARK / 2 - 3, wide + 6, MARK + 6);
}

/** From a cause to its effect. */
function arrow(g: CanvasRenderingContext2D, scene: Scene, from: number, to: number, colour: string): void {
  const [x0, y0, x1, y1] = [xOf(scene, from), yOf(scene, from), xOf(scene, to), yOf(scene, to)];
  const bend = Math.max(14, Math.min(60, Math.abs(x1 - x0) / 2));
  g.strokeStyle = g.fillStyle = colour;
  g.lineWidth = 1.6;
  g.beginPath();
  g.moveTo(x0, y0);
  g.bezierCurveTo(x0 + bend, y0, x1 - bend, y1, x1 - 5, y1);
  g.stroke();
  g.beginPath();
  g.moveTo(x1, y1);
  g.lineTo(x1 - 8, y1 - 4);
  g.lineTo(x1 - 8, y1 + 4);
  g.closePath();
  g.fill();
}
