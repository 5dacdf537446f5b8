import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import type { Finding } from '../../../src/sanitize/index.ts';
import type { Served } from './app.tsx';
import { ChangesPanel } from './changes-panel.tsx';
import type { Client } from './client.ts';
import { ComparePanel } from './compare-panel.tsx';
import { Details } from './details.tsx';
import { FindingsPanel } from './findings-panel.tsx';
import { count } from './format.ts';
import { keyAction } from './keys.ts';
import { RunIndex, showing, type View, zoomed } from './lines.ts';
import { MomentList } from './moment-list.tsx';
import { hashOf, type Place, placeOf, TABS, type Tab } from './place.ts';
import type { Run, Source } from './protocol.ts';
import { type AskedQuestion, QuestionsPanel } from './questions-panel.tsx';
import { SearchBox } from './search-box.tsx';
import { StatePanel } from './state-panel.tsx';
import type { useTheme } from './theme.ts';
import { Timeline } from './timeline.tsx';
import { useAnswer } from './use-answer.ts';

/** A machine that is still running: what the page has beside its recording. */
export interface LiveView {
  /** Buttons, instead of the choice of a recording. */
  readonly controls: preact.ComponentChildren;
  /** The machine's console, beside the tabs; null: it has none. */
  readonly console: preact.ComponentChildren | null;
  /** Events go on arriving: the newest is shown until somebody selects one. */
  readonly running: boolean;
  /** A moment to go to; it is gone to when it changes. */
  readonly goTo: number;
}

interface Props {
  readonly client: Client;
  readonly run: Run;
  readonly source: Source;
  readonly recordings: readonly Served[];
  readonly theme: ReturnType<typeof useTheme>;
  readonly onSource: (source: Source) => void;
  readonly live?: LiveView;
}

const NONE: readonly Finding[] = [];

/** A link may name an event only: its first moment, or the moment it names. */
function settled(place: Place, index: RunIndex): Place {
  const { run } = index;
  if (place.moment >= 0 && place.moment < run.moments) return { ...place, event: run.event[place.moment]! };
  if (place.event >= 0 && run.moments > 0) {
    const moment = index.ofEvent(Math.min(place.event, run.events - 1));
    return { ...place, moment, event: run.event[moment]! };
  }
  return { ...place, moment: -1, event: -1 };
}

/** A recording that is open: timeline, list, and everything about the selected moment. */
export function Explorer({ client, run, source, recordings, theme, onSource, live }: Props) {
  const index = useMemo(() => new RunIndex(run), [run]);
  const whole: View = { from: 0, to: Math.max(1, run.moments) };
  const [place, setPlace] = useState<Place>(() => settled(placeOf(location.hash), index));
  const [view, setView] = useState<View>(() => showing(whole, Math.max(0, place.moment), run.moments));
  const change = (part: Partial<Place>) => setPlace((p) => ({ ...p, ...part }));

  useEffect(() => {
    const served = 'url' in source ? recordings.findIndex((r) => r.url === source.url) : 0;
    const hash = hashOf({ ...place, trace: Math.max(0, served) });
    if (hash !== location.hash) history.replaceState(null, '', location.pathname + location.search + hash);
  }, [place]);
  useEffect(() => {
    const follow = () => {
      const to = settled(placeOf(location.hash), index);
      setPlace(to);
      if (to.moment >= 0) setView((v) => showing(v, to.moment, run.moments));
    };
    addEventListener('hashchange', follow);
    return () => removeEventListener('hashchange', follow);
  }, [index]);

  // What a running machine is asked is asked again when there is more of it.
  const age = live === undefined ? '' : ` ${run.events}`;
  const before = useRef(run.moments);
  useEffect(() => {
    const was = before.current;
    before.current = run.moments;
    if (live === undefined || was === run.moments) return;
    setView((v) => {
      if (v.to < was) return v;
      const width = v.from <= 0 ? run.moments : v.to - v.from;
      return { from: Math.max(0, run.moments - width), to: Math.max(1, run.moments) };
    });
  }, [run]);
  useEffect(() => {
    if (live !== undefined && live.goTo >= 0) select(live.goTo, { tab: 'moment' });
  }, [live?.goTo]);

  const search = useAnswer(client, 'find', place.query, place.query === '' ? null : `${place.query}${age}`);
  const found = place.query === '' ? null : search.value;
  const findings = useAnswer(client, 'findings', null, live?.running === true ? null : `findings${age}`);

  const select = (n: number, also: Partial<Place> = {}) => {
    if (n < 0 || n >= run.moments) return;
    setPlace((p) => ({ ...p, moment: n, event: run.event[n]!, at: -1, ...also }));
    setView((v) => showing(v, n, run.moments));
  };
  const toEvent = (event: number) => select(index.ofEvent(event));
  const mark = (which: 'a' | 'b', event: number) => change({ [which]: event });
  const ask = ({ kind, value }: AskedQuestion) => change({ ask: `${kind}:${value}`, tab: 'questions' });
  const onKey = (e: KeyboardEvent): boolean => {
    const action = keyAction(e, index, place.moment);
    if (action === null) return false;
    e.preventDefault();
    const middle = place.moment >= 0 ? place.moment + 0.5 : (view.from + view.to) / 2;
    switch (action.is) {
      case 'select':
        select(action.n);
        break;
      case 'zoom':
        setView((v) => zoomed(v, action.factor, middle, run.moments));
        break;
      case 'fit':
        setView(whole);
        break;
      case 'mark':
        if (place.event >= 0) mark(action.which, place.event);
        break;
      case 'finding': {
        const all = (findings.value ?? NONE).map((f) => f.events[0] ?? f.last);
        const next = all.find((event) => event > place.event) ?? all[0];
        if (next !== undefined) select(index.ofEvent(next), { tab: 'findings' });
        break;
      }
    }
    return true;
  };
  useEffect(() => {
    const slash = (e: KeyboardEvent) => {
      const typing = e.target instanceof HTMLInputElement;
      if (e.key !== '/' || typing) return;
      e.preventDefault();
      document.getElementById('search')?.focus();
    };
    addEventListener('keydown', slash);
    return () => removeEventListener('keydown', slash);
  }, []);

  const [kind, value] = place.ask.split(':') as [AskedQuestion['kind'] | '', string | undefined];
  const asked = useMemo(() => (value === undefined || kind === '' ? null : { kind, value }), [place.ask]);
  const now = live === undefined ? 0 : run.events;
  const event = place.at >= 0 ? place.at : place.event >= 0 ? place.event : now;
  const panels: { readonly [tab in Tab]: () => preact.JSX.Element } = {
    moment: () => (
      <Details
        client={client}
        index={index}
        selected={place.moment}
        onSelect={select}
        onQuery={(query) => change({ query })}
        onQuestion={(k, v) => ask({ kind: k, value: v })}
        onMark={mark}
      />
    ),
    state: () => (
      <StatePanel
        client={client}
        run={run}
        event={event}
        opened={place.opened}
        onEvent={(at) => change({ at })}
        onOpened={(opened) => change({ opened })}
      />
    ),
    changes: () => (
      <ChangesPanel
        client={client}
        run={run}
        a={place.a}
        b={place.b}
        onMark={mark}
        onQuery={(query) => change({ query })}
      />
    ),
    findings: () => <FindingsPanel run={run} findings={findings.value} error={findings.error} onEvent={toEvent} />,
    questions: () => (
      <QuestionsPanel
        client={client}
        run={run}
        asked={asked}
        event={event}
        onAsk={ask}
        onEvent={toEvent}
        onQuery={(query) => change({ query })}
      />
    ),
    compare: () => (
      <ComparePanel
        client={client}
        run={run}
        source={source}
        others={recordings.filter((r) => !('url' in source) || r.url !== source.url)}
        onEvent={toEvent}
      />
    ),
  };
  const serious = (findings.value ?? NONE).filter((f) => f.severity !== 'hint').length;
  const wrong = serious + (run.differing > 0 ? 1 : 0);
  const tabKey = (e: KeyboardEvent) => {
    const step = e.key === 'ArrowRight' ? 1 : e.key === 'ArrowLeft' ? -1 : 0;
    if (step === 0) return;
    const tab = TABS[(TABS.indexOf(place.tab) + step + TABS.length) % TABS.length]!;
    change({ tab });
    document.getElementById(`tab-${tab}`)?.focus();
  };
  return (
    <>
      <header class="bar">
        <h1>{live === undefined ? 'viommu explorer' : 'viommu live'}</h1>
        {live !== undefined ? (
          live.controls
        ) : recordings.length > 1 ? (
          <select
            aria-label="recording"
            value={'url' in source ? source.url : ''}
            onChange={(e) => {
              const chosen = recordings.find((r) => r.url === e.currentTarget.value);
              if (chosen !== undefined) onSource(chosen);
            }}
          >
            {recordings.map((r) => (
              <option key={r.url} value={r.url}>
                {r.name}
              </option>
            ))}
          </select>
        ) : (
          <b class="file-name" title={run.scenario}>
            {run.file}
          </b>
        )}
        <span class="about" title={run.scenario}>
          {run.iommu === 'smmuv3' ? 'SMMUv3' : 'VT-d'} · {run.kernel === '' ? '' : `${run.kernel} · `}
          {count(run.events)} events
          {run.differing > 0 && <b class="bad"> · differs from the recording</b>}
          {!run.replayed && <b class="bad"> · without guest memory</b>}
        </span>
        <span class="grow" />
        <SearchBox
          client={client}
          query={place.query}
          count={found === null ? null : found.length}
          onQuery={(query) => change({ query })}
        />
        <label class="file" hidden={live !== undefined}>
          Open…
          <input
            type="file"
            onChange={(e) => {
              const file = e.currentTarget.files?.[0];
              if (file !== undefined) onSource({ file });
            }}
          />
        </label>
        <button
          type="button"
          onClick={theme.next}
          aria-label={`theme: ${theme.choice}`}
          title={`theme: ${theme.choice}`}
        >
          {theme.choice === 'auto' ? '◐' : theme.choice === 'light' ? '○' : '●'}
        </button>
      </header>
      <section class="upper" aria-label="timeline">
        <div class="tools">
          <button
            type="button"
            onClick={() =>
              setView((v) => zoomed(v, 2, place.moment >= 0 ? place.moment + 0.5 : (v.from + v.to) / 2, run.moments))
            }
          >
            Zoom in
          </button>
          <button type="button" onClick={() => setView((v) => zoomed(v, 0.5, (v.from + v.to) / 2, run.moments))}>
            Zoom out
          </button>
          <button type="button" onClick={() => setView(whole)}>
            Whole run
          </button>
          <button
            type="button"
            disabled={place.moment < 0 || run.cause[place.moment]! < 0}
            onClick={() => select(run.cause[place.moment]!)}
          >
            To its cause
          </button>
          <button
            type="button"
            disabled={place.moment < 0 || index.effects(place.moment).length === 0}
            onClick={() => select(index.effects(place.moment)[0] ?? -1)}
          >
            To its effect
          </button>
          <span class="faint" id="keys">
            ←→ along a row · ↑↓ between rows · c cause · e effect · + - 0 zoom · a b marks · f finding · / search
          </span>
        </div>
        <div class="timeline-box">
          <Timeline
            index={index}
            view={view}
            selected={place.moment}
            found={found}
            findings={findings.value ?? NONE}
            a={place.a}
            b={place.b}
            palette={theme.palette}
            onView={setView}
            onSelect={select}
            onFinding={(f) => select(index.ofEvent(f.events[0] ?? f.last), { tab: 'findings' })}
            onKey={onKey}
          />
        </div>
      </section>
      <main class={live?.console ? 'lower with-console' : 'lower'}>
        {live?.console}
        <section class="left" aria-label="moments">
          <MomentList
            client={client}
            run={run}
            found={found}
            selected={place.moment}
            newest={live !== undefined && place.moment < 0}
            palette={theme.palette}
            onSelect={select}
            onKey={onKey}
          />
        </section>
        <section class="right" aria-label="about the selection">
          <div class="tabs" role="tablist" onKeyDown={tabKey}>
            {TABS.map((tab) => (
              <button
                key={tab}
                id={`tab-${tab}`}
                type="button"
                role="tab"
                aria-selected={tab === place.tab}
                aria-controls="panel"
                tabIndex={tab === place.tab ? 0 : -1}
                onClick={() => change({ tab })}
              >
                {tab === 'changes' ? 'changes A→B' : tab}
                {tab === 'findings' && wrong > 0 && <span class="bubble">{wrong}</span>}
              </button>
            ))}
          </div>
          <div id="panel" class="panel" role="tabpanel" aria-labelledby={`tab-${place.tab}`}>
            {panels[place.tab]()}
          </div>
        </section>
      </main>
      <p class="sr" aria-live="polite">
        {place.moment >= 0 &&
          `${run.names[run.name[place.moment]!]}, ${run.rows[run.row[place.moment]!]!.label}, event ${place.event}`}
      </p>
    </>
  );
}
