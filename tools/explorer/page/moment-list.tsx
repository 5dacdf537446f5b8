import { useEffect, useRef, useState } from 'preact/hooks';
import type { Client } from './client.ts';
import { count, summary } from './format.ts';
import { lowerBound } from './lines.ts';
import type { Palette } from './palette.ts';
import type { MomentView, Run } from './protocol.ts';
import { useAnswer } from './use-answer.ts';

interface Props {
  readonly client: Client;
  readonly run: Run;
  /** Moments to show; null: all. */
  readonly found: Int32Array | null;
  readonly selected: number;
  /** The newest moment is kept in sight. */
  readonly newest: boolean;
  readonly palette: Palette;
  readonly onSelect: (n: number) => void;
  readonly onKey: (e: KeyboardEvent) => boolean;
}

const LINE = 24;
/** Browsers do not scroll further than some tens of millions of pixels. */
const MOST_PIXELS = 8_000_000;

/** The moments as a list: what the timeline shows, in words, and for whoever does not see it. */
export function MomentList({ client, run, found, selected, newest, palette, onSelect, onKey }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const [scroll, setScroll] = useState({ top: 0, height: 400 });
  const total = found === null ? run.moments : found.length;
  const numberAt = (place: number) => (found === null ? place : found[place]!);
  const placeOf = (n: number) => (found === null ? n : lowerBound(found, n));
  const whole = total * LINE;
  const pixels = Math.min(whole, MOST_PIXELS);
  const stretch = pixels <= scroll.height || whole === pixels ? 1 : (whole - scroll.height) / (pixels - scroll.height);
  const first = Math.max(0, Math.floor((scroll.top * stretch) / LINE) - 4);
  const last = Math.min(total, first + Math.ceil(scroll.height / LINE) + 9);
  const shown = Array.from({ length: Math.max(0, last - first) }, (_, k) => numberAt(first + k));
  const answer = useAnswer(
    client,
    'moments',
    shown,
    shown.length === 0 ? null : `${shown[0]} ${shown.at(-1)} ${shown.length}`,
  );
  const known = new Map<number, MomentView>((answer.value ?? []).map((m) => [m.n, m]));

  useEffect(() => {
    const b = box.current!;
    const watch = new ResizeObserver(() => setScroll({ top: b.scrollTop, height: b.clientHeight }));
    watch.observe(b);
    return () => watch.disconnect();
  }, []);

  const place = selected < 0 ? -1 : placeOf(selected);
  // Also when the list becomes lower: what was in sight may lie below its edge then.
  useEffect(() => {
    const b = box.current!;
    if (place < 0 || place >= total) return;
    const top = (place * LINE) / stretch;
    if (top < b.scrollTop + LINE || top > b.scrollTop + b.clientHeight - 2 * LINE)
      b.scrollTop = top - b.clientHeight / 2;
  }, [place, total, scroll.height]);

  useEffect(() => {
    if (newest) box.current!.scrollTop = pixels;
  }, [newest, pixels, scroll.height]);

  const go = (to: number) => {
    if (total > 0) onSelect(numberAt(Math.max(0, Math.min(total - 1, to))));
  };
  const key = (e: KeyboardEvent) => {
    const page = Math.max(1, Math.floor(scroll.height / LINE) - 1);
    const here = place < 0 ? -1 : place;
    const steps: { readonly [key: string]: number } = {
      ArrowDown: here + 1,
      ArrowUp: here - 1,
      PageDown: here + page,
      PageUp: here - page,
      Home: 0,
      End: total - 1,
    };
    const to = steps[e.key];
    if (to !== undefined) {
      e.preventDefault();
      go(to);
    } else onKey(e);
  };
  const inList = place >= 0 && place < total && numberAt(place) === selected;
  return (
    <div
      ref={box}
      class="moments"
      role="listbox"
      tabIndex={0}
      aria-label={`${count(total)} moments`}
      aria-activedescendant={inList ? `moment-${selected}` : undefined}
      onScroll={() => setScroll({ top: box.current!.scrollTop, height: box.current!.clientHeight })}
      onKeyDown={key}
    >
      <div style={{ height: `${pixels}px`, position: 'relative' }}>
        {total === 0 && <p class="empty">No moment fits the search.</p>}
        {shown.map((n, k) => {
          const m = known.get(n);
          const row = run.rows[run.row[n]!]!;
          const top = (first + k) * LINE - scroll.top * (stretch - 1);
          return (
            // biome-ignore lint/a11y/useKeyWithClickEvents: keys go to the list, which keeps the focus
            // biome-ignore lint/a11y/useFocusableInteractive: the list has the focus and names the active line
            <div
              key={n}
              id={`moment-${n}`}
              class="moment-line"
              role="option"
              aria-selected={n === selected}
              aria-posinset={first + k + 1}
              aria-setsize={total}
              style={{ top: `${top}px`, height: `${LINE}px` }}
              onClick={() => onSelect(n)}
            >
              <span class="event">{run.event[n]}</span>
              <span class="lane" style={{ color: palette.lanes[row.lane] }}>
                {row.lane}
              </span>
              <span class="name">{run.names[run.name[n]!]}</span>
              <span class="args">{m === undefined ? '' : summary(m)}</span>
            </div>
          );
        })}
      </div>
    </div>
  );
}
