import { useEffect, useRef, useState } from 'preact/hooks';
import { Client } from './client.ts';
import { Explorer } from './explorer.tsx';
import { count } from './format.ts';
import { placeOf } from './place.ts';
import type { Run, Source } from './protocol.ts';
import { useTheme } from './theme.ts';

/** A recording that the page's own server has. */
export interface Served {
  readonly url: string;
  readonly name: string;
}

type Phase =
  | { readonly is: 'empty' }
  | { readonly is: 'loading'; readonly name: string; readonly events: number; readonly part: number }
  | { readonly is: 'error'; readonly why: string }
  | { readonly is: 'ready'; readonly client: Client; readonly run: Run; readonly source: Source };

/** Recordings named by `viommu open` in the page it serves; a page opened otherwise has none. */
function served(): readonly Served[] {
  const text = document.querySelector<HTMLMetaElement>('meta[name="viommu-recordings"]')?.content ?? '[]';
  return (JSON.parse(text) as readonly string[]).map((name, n) => ({
    name,
    url: new URL(`recordings/${n}`, location.href).href,
  }));
}

/** The page: chooses a recording, opens it, and shows it. */
export function App() {
  const [recordings] = useState(served);
  const [phase, setPhase] = useState<Phase>({ is: 'empty' });
  const [over, setOver] = useState(false);
  const theme = useTheme();
  const current = useRef<Client | null>(null);

  const open = async (source: Source) => {
    current.current?.close();
    const client = new Client();
    current.current = client;
    const name = 'file' in source ? source.file.name : source.name;
    setPhase({ is: 'loading', name, events: 0, part: 0 });
    try {
      const run = await client.ask('open', { source, replay: {}, states: true }, (events, part) => {
        if (current.current === client) setPhase({ is: 'loading', name, events, part });
      });
      if (current.current !== client) return;
      // Whoever drives the page - a test, the developer's console - asks the worker itself.
      Object.assign(globalThis, { explorer: { client, run } });
      setPhase({ is: 'ready', client, run, source });
    } catch (e) {
      if (current.current === client) setPhase({ is: 'error', why: (e as Error).message });
    }
  };

  useEffect(() => {
    const first = recordings[placeOf(location.hash).trace] ?? recordings[0];
    if (first !== undefined) void open(first);
    const hold = (e: DragEvent) => {
      e.preventDefault();
      setOver(e.type === 'dragover');
    };
    const drop = (e: DragEvent) => {
      hold(e);
      const file = e.dataTransfer?.files[0];
      if (file !== undefined) choose({ file });
    };
    addEventListener('dragover', hold);
    addEventListener('dragleave', hold);
    addEventListener('drop', drop);
    return () => {
      removeEventListener('dragover', hold);
      removeEventListener('dragleave', hold);
      removeEventListener('drop', drop);
    };
  }, []);

  /** Another recording: the place in the last one means nothing there. */
  const choose = (source: Source) => {
    history.replaceState(null, '', location.pathname + location.search);
    void open(source);
  };

  return (
    <div class={`page ${over ? 'dropping' : ''}`}>
      {phase.is !== 'ready' && (
        <header class="bar">
          <h1>viommu explorer</h1>
          <span class="grow" />
          <button type="button" onClick={theme.next}>
            theme: {theme.choice}
          </button>
        </header>
      )}
      {phase.is === 'empty' && <Empty onFile={(file) => choose({ file })} />}
      {phase.is === 'loading' && (
        <main class="middle">
          <h2>{phase.name}</h2>
          <progress max={1} value={phase.part} aria-label="part of the recording that was read" />
          <p aria-live="polite">{count(phase.events)} events replayed</p>
        </main>
      )}
      {phase.is === 'error' && (
        <main class="middle">
          <h2>This recording cannot be shown</h2>
          <p class="error" role="alert">
            {phase.why}
          </p>
          <p>
            The explorer takes recordings of viommu and QEMU (.ndjson or .ndjson.gz) and what <code>viommu import</code>{' '}
            makes.
          </p>
          <Chooser onFile={(file) => choose({ file })} />
        </main>
      )}
      {phase.is === 'ready' && (
        <Explorer
          key={phase.run.file}
          client={phase.client}
          run={phase.run}
          source={phase.source}
          recordings={recordings}
          theme={theme}
          onSource={choose}
        />
      )}
    </div>
  );
}

function Chooser({ onFile }: { readonly onFile: (file: File) => void }) {
  return (
    <label class="file primary">
      Choose a recording…
      <input
        type="file"
        accept=".gz,.ndjson,application/gzip"
        onChange={(e) => {
          const file = e.currentTarget.files?.[0];
          if (file !== undefined) onFile(file);
        }}
      />
    </label>
  );
}

function Empty({ onFile }: { readonly onFile: (file: File) => void }) {
  return (
    <main class="middle">
      <h2>What an IOMMU did, moment by moment</h2>
      <p>
        Drop a recording here (<code>.ndjson.gz</code>), or choose one. It is replayed in this browser; nothing is
        uploaded.
      </p>
      <Chooser onFile={onFile} />
      <p class="faint">
        Recordings come from <code>viommu import</code>, from machines of this package and from its folder{' '}
        <code>guest-fixtures/recordings</code>.
      </p>
    </main>
  );
}
