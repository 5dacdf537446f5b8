import { useEffect, useRef, useState } from 'preact/hooks';
import { ConsolePanel } from './console.tsx';
import { Explorer, useTheme } from './explorer.ts';
import { LiveRun, type LiveShown } from './live.ts';
import type { LiveMachine } from './machine.ts';

/** What the page was asked to run. */
export interface Choice {
  /** Name of a recording that is played as if its machine ran; '': Linux in v86. */
  readonly recording: string;
  /** Properties of the vVT-d of Linux in v86. */
  readonly unit: string;
}

interface Props {
  readonly choice: Choice;
  readonly recordings: readonly string[];
  readonly start: (choice: Choice) => Promise<LiveMachine>;
  readonly onRun: (run: LiveRun) => void;
  readonly onError: (why: string) => void;
}

const UNITS = ['device-iotlb=on', 'device-iotlb=on,scalable-mode=on,fsts=on', 'caching-mode=on'] as const;

function addressOf(value: string): string {
  const [kind, ...rest] = value.split(':');
  return `?${kind}=${encodeURIComponent(rest.join(':'))}`;
}

/** A running machine in the explorer. */
export function LiveApp({ choice, recordings, start, onRun, onError }: Props) {
  const theme = useTheme();
  const [shown, setShown] = useState<LiveShown | null>(null);
  const [status, setStatus] = useState('fetching the guest');
  const live = useRef<LiveRun | null>(null);
  useEffect(() => {
    const begin = async () => {
      const machine = await start(choice);
      const run = new LiveRun(machine, setShown);
      live.current = run;
      await run.begin();
      onRun(run);
    };
    begin().catch((e: unknown) => {
      const why = e instanceof Error ? e.message : String(e);
      setStatus(why);
      onError(why);
    });
    return () => live.current?.close();
  }, []);
  const chosen = choice.recording === '' ? `unit:${choice.unit}` : `recording:${choice.recording}`;
  const machines = (
    <select
      aria-label="machine"
      value={chosen}
      onChange={(e) => {
        location.href = addressOf(e.currentTarget.value);
      }}
    >
      <optgroup label="Linux in v86, vVT-d">
        {UNITS.map((u) => (
          <option key={u} value={`unit:${u}`}>
            {u}
          </option>
        ))}
      </optgroup>
      <optgroup label="recorded, as if it ran">
        {recordings.map((r) => (
          <option key={r} value={`recording:${r}`}>
            {r}
          </option>
        ))}
      </optgroup>
    </select>
  );
  const run = live.current;
  if (shown === null || run === null)
    return (
      <div class="page">
        <header class="bar">
          <h1>viommu live</h1>
          {machines}
        </header>
        <main class="middle">
          <p role="status">{status}</p>
        </main>
      </div>
    );
  const { machine } = run;
  const running = shown.drives === 'run';
  const controls = (
    <>
      {machines}
      <fieldset class="controls" aria-label="run of the machine">
        <button type="button" class="primary" onClick={() => void (running ? run.pause() : run.go())}>
          {running ? 'Pause' : 'Run'}
        </button>
        <button type="button" onClick={() => void run.step('command')} title="on to the next command">
          Step command
        </button>
        <button type="button" onClick={() => void run.step('access')} title="on to the next access">
          Step access
        </button>
        {machine.stray !== null && (
          <button type="button" onClick={() => void run.stray()} title="a DMA write to an address nobody mapped">
            Stray DMA
          </button>
        )}
      </fieldset>
      <span class="rates" role="status" aria-busy={shown.busy}>
        {running && !machine.ended ? (
          <>
            <b>{shown.accesses.toLocaleString('en')}</b> translations/s · <b>{shown.commands.toLocaleString('en')}</b>{' '}
            commands/s
          </>
        ) : (
          <b>{machine.ended && shown.held === 0 ? 'ended' : 'paused'}</b>
        )}
        {shown.held > 0 && ` · ${shown.held.toLocaleString('en')} events ahead`}
        {shown.error !== '' && <b class="bad"> · {shown.error}</b>}
      </span>
    </>
  );
  return (
    <div class="page live">
      <Explorer
        client={run.client}
        run={shown.run}
        source={{ url: '', name: machine.name }}
        recordings={[]}
        theme={theme}
        onSource={() => {}}
        live={{
          controls,
          console:
            machine.console === null ? null : (
              <ConsolePanel lines={machine.console} count={shown.consoleLines} onSend={(l) => machine.send(l)} />
            ),
          running,
          goTo: shown.goTo,
        }}
      />
    </div>
  );
}
