import { useEffect, useRef, useState } from 'preact/hooks';
import type { Client } from './client.ts';
import { useAnswer } from './use-answer.ts';

interface Props {
  readonly client: Client;
  readonly query: string;
  /** How many moments it found; null: nothing was searched. */
  readonly count: number | null;
  readonly onQuery: (query: string) => void;
}

/** A search over everything that is written about moments, with offers for how to go on. */
export function SearchBox({ client, query, count, onQuery }: Props) {
  const [text, setText] = useState(query);
  const [open, setOpen] = useState(false);
  const [chosen, setChosen] = useState(-1);
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => setText(query), [query]);
  const { value } = useAnswer(client, 'complete', text, open ? text : null);
  const offers = open ? (value ?? []).filter((o) => o !== text) : [];
  const take = (offer: string) => {
    setText(offer);
    setChosen(-1);
    if (!offer.endsWith(':')) {
      setOpen(false);
      onQuery(offer.trim());
    }
    input.current?.focus();
  };
  const key = (e: KeyboardEvent) => {
    if (e.key === 'ArrowDown' || e.key === 'ArrowUp') {
      e.preventDefault();
      const step = e.key === 'ArrowDown' ? 1 : -1;
      setOpen(true);
      setChosen((c) => Math.max(-1, Math.min(offers.length - 1, c + step)));
    } else if (e.key === 'Escape') {
      if (open) setOpen(false);
      else onQuery('');
    } else if (e.key === 'Tab' && open && chosen >= 0) {
      e.preventDefault();
      take(offers[chosen]!);
    }
  };
  return (
    <search class="search-place">
      <form
        class="search"
        onSubmit={(e) => {
          e.preventDefault();
          if (open && chosen >= 0) take(offers[chosen]!);
          else {
            setOpen(false);
            onQuery(text.trim());
          }
        }}
      >
        <input
          ref={input}
          id="search"
          type="text"
          // biome-ignore lint/a11y/noRedundantRoles: it has that role of itself only with a list, and this one is no datalist
          role="combobox"
          list={undefined}
          aria-label="Search moments"
          aria-expanded={offers.length > 0}
          aria-controls="offers"
          aria-autocomplete="list"
          aria-activedescendant={chosen >= 0 ? `offer-${chosen}` : undefined}
          autocomplete="off"
          spellcheck={false}
          placeholder="search: lane:commands, iova:0x…"
          value={text}
          onInput={(e) => {
            setText(e.currentTarget.value);
            setOpen(true);
            setChosen(-1);
          }}
          onFocus={() => setOpen(text !== '')}
          onBlur={() => setTimeout(() => setOpen(false), 150)}
          onKeyDown={key}
        />
        {count !== null && (
          <span class="count" aria-live="polite">
            {count.toLocaleString('en')} found
          </span>
        )}
        <div id="offers" role="listbox" aria-label="offers" class="offers" hidden={offers.length === 0}>
          {offers.map((o, k) => (
            // biome-ignore lint/a11y/useFocusableInteractive: the input keeps the focus and names the active offer
            <div key={o} id={`offer-${k}`} role="option" aria-selected={k === chosen} onMouseDown={() => take(o)}>
              {o}
            </div>
          ))}
        </div>
      </form>
    </search>
  );
}
