import { useEffect, useRef, useState } from 'preact/hooks';
import type { Finding } from '../../../src/sanitize/index.ts';
import { AXIS, draw, findingAt, heightOf, ROW, rowAt, type Scene } from './draw.ts';
import { fitted, type RunIndex, type View, zoomed } from './lines.ts';
import type { Palette } from './palette.ts';

interface Props {
  readonly index: RunIndex;
  readonly view: View;
  readonly selected: number;
  readonly found: Int32Array | null;
  readonly findings: readonly Finding[];
  readonly a: number;
  readonly b: number;
  readonly palette: Palette;
  readonly onView: (view: View) => void;
  readonly onSelect: (n: number) => void;
  readonly onFinding: (f: Finding) => void;
  readonly onKey: (e: KeyboardEvent) => void;
}

const WHEEL = 0.0016;
/** Pixels the pointer may move in a click. */
const STILL = 4;

/** The run as a picture: a row for each lane, time from left to right as the order of what happened. */
export function Timeline(props: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(0);
  const latest = useRef(props);
  latest.current = props;
  const scene: Scene = { ...props, width };
  const height = heightOf(props.index, props.findings);

  useEffect(() => {
    const parent = canvas.current!.parentElement!;
    const watch = new ResizeObserver(() => setWidth(parent.clientWidth));
    watch.observe(parent);
    setWidth(parent.clientWidth);
    return () => watch.disconnect();
  }, []);

  useEffect(() => {
    const c = canvas.current!;
    if (width === 0) return;
    const frame = requestAnimationFrame(() => {
      const dense = devicePixelRatio;
      const [w, h] = [Math.round(width * dense), Math.round(height * dense)];
      if (c.width !== w || c.height !== h) [c.width, c.height] = [w, h];
      const g = c.getContext('2d')!;
      g.setTransform(dense, 0, 0, dense, 0, 0);
      draw(g, scene);
    });
    return () => cancelAnimationFrame(frame);
  });

  useEffect(() => {
    const c = canvas.current!;
    const wheel = (e: WheelEvent) => {
      const { view, index, onView } = latest.current;
      const sideways = e.shiftKey || Math.abs(e.deltaX) > Math.abs(e.deltaY);
      e.preventDefault();
      const scale = (view.to - view.from) / c.clientWidth;
      if (sideways) {
        const by = (e.deltaX === 0 ? e.deltaY : e.deltaX) * scale;
        onView(fitted({ from: view.from + by, to: view.to + by }, index.run.moments));
        return;
      }
      const at = view.from + e.offsetX * scale;
      onView(zoomed(view, Math.exp(-e.deltaY * WHEEL), at, index.run.moments));
    };
    c.addEventListener('wheel', wheel, { passive: false });
    return () => c.removeEventListener('wheel', wheel);
  }, []);

  const drag = useRef<{ x: number; view: View; moved: boolean } | null>(null);
  const down = (e: PointerEvent) => {
    if (e.button !== 0) return;
    canvas.current!.setPointerCapture(e.pointerId);
    drag.current = { x: e.offsetX, view: props.view, moved: false };
  };
  const move = (e: PointerEvent) => {
    const d = drag.current;
    if (d === null) return;
    if (Math.abs(e.offsetX - d.x) > STILL) d.moved = true;
    if (!d.moved) return;
    const by = ((d.x - e.offsetX) * (d.view.to - d.view.from)) / width;
    props.onView(fitted({ from: d.view.from + by, to: d.view.to + by }, props.index.run.moments));
  };
  const up = (e: PointerEvent) => {
    const d = drag.current;
    drag.current = null;
    if (d === null || d.moved) return;
    const finding = findingAt(scene, e.offsetX, e.offsetY);
    if (finding !== null) {
      props.onFinding(finding);
      return;
    }
    const row = rowAt(scene, e.offsetY);
    const n = props.view.from + (e.offsetX / width) * (props.view.to - props.view.from) - 0.5;
    const nearest = row < 0 ? -1 : props.index.nearest(row, n);
    if (nearest >= 0) props.onSelect(nearest);
  };

  return (
    <div class="timeline">
      <ul class="row-names" style={{ paddingTop: `${AXIS}px` }} aria-hidden="true">
        {props.findings.length > 0 && <li style={{ height: `${ROW}px` }}>findings</li>}
        {props.index.run.rows.map((r) => (
          <li key={r.label} style={{ height: `${ROW}px` }} title={`${r.label}: ${r.count}`}>
            <span class="dot" style={{ background: props.palette.lanes[r.lane] }} />
            <span class="row-name">{r.label}</span>
            <span class="count">{r.count.toLocaleString('en')}</span>
          </li>
        ))}
      </ul>
      <div class="picture" style={{ height: `${height}px` }}>
        <canvas
          ref={canvas}
          tabIndex={0}
          role="img"
          aria-label="Timeline. Arrow keys go from moment to moment; the list of moments below says the same in words."
          aria-describedby="keys"
          style={{ width: '100%', height: `${height}px` }}
          onPointerDown={down}
          onPointerMove={move}
          onPointerUp={up}
          onPointerCancel={() => {
            drag.current = null;
          }}
          onKeyDown={props.onKey}
        />
      </div>
    </div>
  );
}
