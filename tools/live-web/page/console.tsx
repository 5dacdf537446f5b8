import { useEffect, useRef, useState } from 'preact/hooks';
import { coloured } from './ansi.ts';

/** Lines of a console that are on the page. */
const MOST = 400;
/** What the guest's init understands; a click types it. */
const COMMANDS = ['verify 4k 4096', 'verify 64k 65536', 'type DMA-FQ', 'type DMA', 'unbind', 'bind'] as const;

interface Props {
  readonly lines: readonly string[];
  /** How many there are: they are one list that grows. */
  readonly count: number;
  readonly onSend: (line: string) => void;
}

/** The guest's console. It follows the end, unless somebody reads further up. */
export function ConsolePanel({ lines, count, onSend }: Props) {
  const box = useRef<HTMLPreElement>(null);
  const atEnd = useRef(true);
  const top = useRef(0);
  const [typed, setTyped] = useState('');
  useEffect(() => {
    const b = box.current!;
    const follow = () => {
      if (atEnd.current) b.scrollTop = b.scrollHeight;
    };
    follow();
    const watch = new ResizeObserver(follow);
    watch.observe(b);
    return () => watch.disconnect();
  }, [count]);
  return (
    <section class="console" aria-label="console of the guest">
      <pre
        ref={box}
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls is reached by keyboard
        tabIndex={0}
        onScroll={() => {
          const b = box.current!;
          // Lines may have come between our own scrolling and this: only whoever goes up leaves the end.
          if (b.scrollHeight - b.scrollTop - b.clientHeight < 40) atEnd.current = true;
          else if (b.scrollTop < top.current) atEnd.current = false;
          top.current = b.scrollTop;
        }}
      >
        {lines.slice(-MOST).map((line, n) => (
          <div key={Math.max(0, lines.length - MOST) + n}>
            {coloured(line).map((p, k) => (
              <span key={k} class={p.look}>
                {p.text}
              </span>
            ))}
          </div>
        ))}
      </pre>
      <form
        onSubmit={(e) => {
          e.preventDefault();
          if (typed !== '') onSend(typed);
          setTyped('');
        }}
      >
        <input
          value={typed}
          aria-label="line to type into the guest's console"
          placeholder="a line for the guest"
          list="console-commands"
          spellcheck={false}
          onInput={(e) => setTyped(e.currentTarget.value)}
        />
        <datalist id="console-commands">
          {COMMANDS.map((c) => (
            <option key={c} value={c} />
          ))}
        </datalist>
        <button type="submit">Type</button>
      </form>
    </section>
  );
}
