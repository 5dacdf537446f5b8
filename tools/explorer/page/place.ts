/** Parts of the panel beside the list. */
export const TABS = ['moment', 'state', 'changes', 'findings', 'questions', 'compare'] as const;
/** Value of `TABS`. */
export type Tab = (typeof TABS)[number];

/** Where somebody is in a recording: everything a link to it needs. */
export interface Place {
  /** Which of the served recordings. */
  readonly trace: number;
  /** Number of the selected moment; -1: none. */
  readonly moment: number;
  /** Event of the selected moment, as links name it; -1: none. */
  readonly event: number;
  readonly query: string;
  readonly tab: Tab;
  /** The state before this event is shown; -1: before that of the selected moment. */
  readonly at: number;
  readonly a: number;
  readonly b: number;
  readonly opened: readonly string[];
  /** `maps:0x…`, with a PASID `maps:0x…@0x…`, or `reaches:0x…`; '': nothing was asked. */
  readonly ask: string;
}

export const NOWHERE: Place = {
  trace: 0,
  moment: -1,
  event: -1,
  query: '',
  tab: 'moment',
  at: -1,
  a: -1,
  b: -1,
  opened: [],
  ask: '',
};

function number(text: string | null): number {
  return text !== null && /^\d{1,9}$/.test(text) ? Number(text) : -1;
}

/** The place that a link names. Whatever it does not say, or says wrongly, is left out. */
export function placeOf(hash: string): Place {
  const p = new URLSearchParams(hash.replace(/^#/, ''));
  const stream = p.get('stream');
  const about = stream !== null && /^(0x[0-9a-f]+|\w[\w-]*)$/i.test(stream) ? `about:${stream}` : '';
  const ask = p.get('ask') ?? '';
  return {
    trace: Math.max(0, number(p.get('trace'))),
    moment: number(p.get('moment')),
    event: number(p.get('event')),
    query: [about, p.get('q') ?? ''].filter((t) => t !== '').join(' '),
    tab: TABS.find((t) => t === p.get('tab')) ?? 'moment',
    at: number(p.get('at')),
    a: number(p.get('a')),
    b: number(p.get('b')),
    opened:
      p
        .get('open')
        ?.split(',')
        .filter((o) => o !== '') ?? [],
    ask: /^(maps|reaches):(0x[0-9a-f]{1,16}|\d{1,16})(@(0x[0-9a-f]{1,5}|\d{1,7}))?$/i.test(ask) ? ask : '',
  };
}

/** The link to a place. */
export function hashOf(place: Place): string {
  const p = new URLSearchParams();
  if (place.trace > 0) p.set('trace', `${place.trace}`);
  for (const key of ['event', 'moment', 'at', 'a', 'b'] as const) if (place[key] >= 0) p.set(key, `${place[key]}`);
  if (place.query !== '') p.set('q', place.query);
  if (place.tab !== 'moment') p.set('tab', place.tab);
  if (place.opened.length > 0) p.set('open', place.opened.join(','));
  if (place.ask !== '') p.set('ask', place.ask);
  const text = p.toString();
  return text === '' ? '' : `#${text.replaceAll('%3A', ':').replaceAll('%2C', ',').replaceAll('%2F', '/')}`;
}
