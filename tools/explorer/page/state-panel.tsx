import { useState } from 'preact/hooks';
import type { CachedView, GrantedView, RegisterView, StateView } from '../model/state.ts';
import type { Client } from './client.ts';
import { count, sizeOf, streamName } from './format.ts';
import { HostGraph } from './host-graph.tsx';
import type { Run } from './protocol.ts';
import { Tree } from './tree.tsx';
import { useAnswer } from './use-answer.ts';

interface Props {
  readonly client: Client;
  readonly run: Run;
  /** The state before this event is shown. */
  readonly event: number;
  readonly opened: readonly string[];
  readonly onEvent: (event: number) => void;
  readonly onOpened: (opened: readonly string[]) => void;
}

/** Everything there is on the machine before one event. */
export function StatePanel({ client, run, event, opened, onEvent, onOpened }: Props) {
  const { value, error, waiting } = useAnswer(
    client,
    'state',
    { event, opened },
    run.replayed ? `${event} ${opened}` : null,
  );
  if (!run.replayed)
    return (
      <p class="empty">Guest memory was not recorded: there is no state, only what the log says of each moment.</p>
    );
  return (
    <div class="state" aria-busy={waiting}>
      <div class="scrub">
        <label for="scrub">before event</label>
        <input
          id="scrub"
          type="range"
          min={0}
          max={run.events}
          value={event}
          onInput={(e) => onEvent(Number(e.currentTarget.value))}
        />
        <input
          type="number"
          aria-label="event number"
          min={0}
          max={run.events}
          value={event}
          onChange={(e) => onEvent(Math.max(0, Math.min(run.events, Number(e.currentTarget.value))))}
        />
      </div>
      {error !== '' && <p class="error">{error}</p>}
      {value !== null && <Sections run={run} state={value} opened={opened} onOpened={onOpened} />}
    </div>
  );
}

interface SectionProps {
  readonly run: Run;
  readonly state: StateView;
  readonly opened: readonly string[];
  readonly onOpened: (opened: readonly string[]) => void;
}

function Sections({ run, state, opened, onOpened }: SectionProps) {
  return (
    <>
      <section class="tables">
        <h3>{run.iommu === 'smmuv3' ? 'Stream table' : 'Root table'}</h3>
        {state.streams.length === 0 ? (
          <p class="faint">no valid entry</p>
        ) : (
          <Tree label="tables of the guest" nodes={state.streams} opened={opened} onOpened={onOpened} />
        )}
      </section>
      <section class="host">
        <h3>Host objects</h3>
        <HostGraph objects={state.objects} attachments={state.attachments} />
        <p class="faint">
          operations so far: {state.operations.map(([verb, n]) => `${verb} ${count(n)}`).join(', ') || 'none'}
        </p>
      </section>
      <section class="registers">
        <h3>Registers</h3>
        <Registers registers={state.registers} />
      </section>
      <section class="caches">
        <h3>Cached translations ({count(state.cachedCount)})</h3>
        <Cached cached={state.cached} total={state.cachedCount} />
        <p class="faint">IOTLB of the hardware.</p>
      </section>
      <section class="atcs">
        <h3>What ATCs may hold ({count(state.grantedCount)})</h3>
        <Granted run={run} granted={state.granted} total={state.grantedCount} />
        <p class="faint">
          Given to functions with ATS and not invalidated since. What each keeps of it is the function's own affair.
        </p>
      </section>
    </>
  );
}

function Registers({ registers }: { readonly registers: readonly RegisterView[] }) {
  const [all, setAll] = useState(false);
  const shown = registers.filter((r) => all || r.value !== '0x0');
  return (
    <>
      <label class="check">
        <input type="checkbox" checked={all} onChange={(e) => setAll(e.currentTarget.checked)} /> those that are zero,
        too
      </label>
      <table>
        <tbody>
          {shown.map((r) => (
            <tr key={r.name}>
              <th scope="row" title={`offset 0x${r.at.toString(16)}`}>
                {r.name}
              </th>
              <td class="mono">{r.value}</td>
              <td>
                {r.fields
                  .filter((f) => f.value !== 0)
                  .map((f) => (
                    <span key={f.name} class="field">
                      {f.name}
                      {f.value === 1 ? '' : ` ${f.value < 10 ? f.value : `0x${f.value.toString(16)}`}`}
                    </span>
                  ))}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}

const FEW = 100;

function Cached({ cached, total }: { readonly cached: readonly CachedView[]; readonly total: number }) {
  if (cached.length === 0) return <p class="faint">none</p>;
  return (
    <>
      <table>
        <thead>
          <tr>
            <th scope="col">whose</th>
            <th scope="col">input</th>
            <th scope="col">size</th>
            <th scope="col">guest page</th>
            <th scope="col">rights</th>
          </tr>
        </thead>
        <tbody>
          {cached.slice(0, FEW).map((c) => (
            <tr key={`${c.context} ${c.input} ${c.shift}`}>
              <td>{c.context}</td>
              <td class="mono">{c.input}</td>
              <td>{sizeOf(c.shift)}</td>
              <td class="mono">{c.out}</td>
              <td>{c.rights}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {total > FEW && <p class="faint">and {count(total - FEW)} more</p>}
    </>
  );
}

interface GrantedProps {
  readonly run: Run;
  readonly granted: readonly GrantedView[];
  readonly total: number;
}

function Granted({ run, granted, total }: GrantedProps) {
  if (!run.devices.some((d) => d.ats)) return <p class="faint">the recording names no function with ATS</p>;
  if (granted.length === 0) return <p class="faint">nothing</p>;
  return (
    <>
      <table>
        <thead>
          <tr>
            <th scope="col">function</th>
            <th scope="col">input</th>
            <th scope="col">guest page</th>
            <th scope="col">rights</th>
          </tr>
        </thead>
        <tbody>
          {granted
            .slice(-FEW)
            .toReversed()
            .map((g) => (
              <tr key={`${g.stream} ${g.input}`}>
                <td>{streamName(run, g.stream)}</td>
                <td class="mono">{g.input}</td>
                <td class="mono">{g.out}</td>
                <td>{g.rights}</td>
              </tr>
            ))}
        </tbody>
      </table>
      {total > FEW && <p class="faint">the last {FEW} of them, the newest first</p>}
    </>
  );
}
