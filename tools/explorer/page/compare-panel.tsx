import { useEffect, useRef, useState } from 'preact/hooks';
import type { CompareLine, Comparison, RunStep } from '../model/compare.ts';
import { Client } from './client.ts';
import { count } from './format.ts';
import type { Run, Source } from './protocol.ts';

interface Props {
  readonly client: Client;
  readonly run: Run;
  readonly source: Source;
  /** Other recordings that the server has. */
  readonly others: readonly { readonly url: string; readonly name: string }[];
  readonly onEvent: (event: number) => void;
}

type Phase =
  | { readonly is: 'empty' }
  | { readonly is: 'loading'; readonly what: string; readonly part: number }
  | { readonly is: 'error'; readonly why: string }
  | { readonly is: 'done'; readonly name: string; readonly comparison: Comparison };

const LINE = 24;
const HOW: { readonly [how in CompareLine['how']]: string } = {
  same: '',
  words: 'other words',
  effects: 'other effects',
  accesses: 'other answers to the same accesses',
  only: 'only here',
};

/** Two runs side by side, aligned by command. */
export function ComparePanel({ client, run, source, others, onEvent }: Props) {
  const [phase, setPhase] = useState<Phase>({ is: 'empty' });
  const second = useRef<Client | null>(null);
  useEffect(() => () => second.current?.close(), []);

  const compare = async (from: Source, replay: object, name: string) => {
    second.current?.close();
    const other = new Client();
    second.current = other;
    setPhase({ is: 'loading', what: `replaying ${name}`, part: 0 });
    try {
      await other.ask('open', { source: from, replay, states: false }, (_, part) =>
        setPhase({ is: 'loading', what: `replaying ${name}`, part }),
      );
      const steps = await other.ask('steps', null);
      setPhase({ is: 'loading', what: 'aligning', part: 1 });
      setPhase({ is: 'done', name, comparison: await client.ask('compare', steps) });
    } catch (e) {
      setPhase({ is: 'error', why: (e as Error).message });
    }
  };

  return (
    <div class="compare">
      <div class="buttons">
        <label class="file">
          Compare with a file…
          <input
            type="file"
            onChange={(e) => {
              const file = e.currentTarget.files?.[0];
              if (file !== undefined) void compare({ file }, {}, file.name);
            }}
          />
        </label>
        {others.map((o) => (
          <button key={o.url} type="button" onClick={() => void compare(o, {}, o.name)}>
            with {o.name}
          </button>
        ))}
        <button type="button" onClick={() => void compare(source, { profile: 'arch' }, `${run.file}, profile arch`)}>
          with itself under the profile arch
        </button>
        <button type="button" onClick={() => void compare(source, { caches: 'off' }, `${run.file}, no caches`)}>
          without caches
        </button>
        <button
          type="button"
          onClick={() => void compare(source, { ignoreInvalidations: true }, `${run.file}, invalidations ignored`)}
        >
          with its invalidations ignored
        </button>
      </div>
      {phase.is === 'empty' && (
        <p class="empty">Choose another run: of another driver version, or of this recording on another machine.</p>
      )}
      {phase.is === 'loading' && (
        <p class="waiting">
          {phase.what}… <progress max={1} value={phase.part} />
        </p>
      )}
      {phase.is === 'error' && <p class="error">{phase.why}</p>}
      {phase.is === 'done' && <Lines name={phase.name} run={run} comparison={phase.comparison} onEvent={onEvent} />}
    </div>
  );
}

interface LinesProps {
  readonly name: string;
  readonly run: Run;
  readonly comparison: Comparison;
  readonly onEvent: (event: number) => void;
}

function Lines({ name, run, comparison, onEvent }: LinesProps) {
  const { lines, first, differing } = comparison;
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [current, setCurrent] = useState(first);
  const differs = (l: CompareLine) => l.how !== 'same' && l.how !== 'words';
  const show = (n: number) => {
    if (n < 0 || n >= lines.length) return;
    setCurrent(n);
    if (box.current !== null) box.current.scrollTop = Math.max(0, n * LINE - 100);
  };
  useEffect(() => show(first), [comparison]);
  const from = Math.max(0, Math.floor(top / LINE) - 5);
  const shown = lines.slice(from, from + 60);
  const line = lines[current];
  const next = () => show(lines.findIndex((l, n) => n > current && differs(l)));
  return (
    <>
      <p>
        {differing === 0
          ? `${count(lines.length)} steps: the runs do the same.`
          : `${count(differing)} of ${count(lines.length)} steps differ; the first is step ${first}.`}{' '}
        {differing > 0 && (
          <>
            <button type="button" onClick={() => show(first)}>
              First difference
            </button>{' '}
            <button type="button" onClick={next}>
              Next
            </button>
          </>
        )}
      </p>
      <div class="sides" aria-hidden="true">
        <b>{run.file}</b>
        <b>{name}</b>
      </div>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls */}
      <div class="compare-lines" ref={box} tabIndex={0} onScroll={() => setTop(box.current!.scrollTop)}>
        <div style={{ height: `${lines.length * LINE}px`, position: 'relative' }}>
          {shown.map((l, k) => (
            // biome-ignore lint/a11y/useKeyWithClickEvents: the buttons above go from difference to difference
            // biome-ignore lint/a11y/noStaticElementInteractions: the same
            <div
              key={from + k}
              class={`compare-line ${differs(l) ? 'differs' : ''} ${from + k === current ? 'current' : ''}`}
              style={{ top: `${(from + k) * LINE}px`, height: `${LINE}px` }}
              onClick={() => {
                setCurrent(from + k);
                if (l.a !== null && l.a.n >= 0) onEvent(l.a.event);
              }}
            >
              <Side step={l.a} />
              <Side step={l.b} />
            </div>
          ))}
        </div>
      </div>
      {line !== undefined && differing > 0 && (
        <div class="compare-details" aria-live="polite">
          <h4>
            Step {current}: {HOW[line.how] || 'the same'}
          </h4>
          <div class="sides">
            <StepDetails step={line.a} />
            <StepDetails step={line.b} />
          </div>
        </div>
      )}
    </>
  );
}

function Side({ step }: { readonly step: RunStep | null }) {
  return (
    <div>
      {step === null ? (
        <span class="faint">-</span>
      ) : (
        <>
          <span class="event">{step.event}</span> {step.key} <span class="faint">{step.says}</span>
        </>
      )}
    </div>
  );
}

function StepDetails({ step }: { readonly step: RunStep | null }) {
  if (step === null) return <div class="faint">nothing there</div>;
  return (
    <div>
      <p>
        <b>{step.key}</b> at event {step.event}
      </p>
      <p class="mono">{step.says}</p>
      <p>
        came to: <span class="mono">{step.effects === '' ? 'nothing' : step.effects}</span>
      </p>
    </div>
  );
}
