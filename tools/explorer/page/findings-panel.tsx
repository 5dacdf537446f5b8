import type { Finding } from '../../../src/sanitize/index.ts';
import { hex } from './format.ts';
import type { Run } from './protocol.ts';

interface Props {
  readonly run: Run;
  /** Null: not judged yet. */
  readonly findings: readonly Finding[] | null;
  readonly error: string;
  readonly onEvent: (event: number) => void;
}

/** What the driver did wrong, and where the replay is not as the recording. */
export function FindingsPanel({ run, findings, error, onEvent }: Props) {
  const event = (n: number) => (
    <button type="button" class="link" onClick={() => onEvent(n)}>
      event {n}
    </button>
  );
  return (
    <div class="findings">
      <section>
        <h3>What the driver did wrong</h3>
        {error !== '' && <p class="error">{error}</p>}
        {findings === null && error === '' && <p class="waiting">judging…</p>}
        {findings?.length === 0 && <p class="faint">nothing that the rules of viommu sanitize find</p>}
        <ol>
          {findings?.map((f) => (
            <li key={`${f.rule} ${f.events[0]} ${f.stream} ${f.iova}`} class={f.severity}>
              <p>
                <span class={`severity ${f.severity}`}>{f.severity}</span> <b>{f.rule}</b>
                {f.device !== null && ` ${f.device}`}
                {f.stream !== null && f.device === null && ` stream ${hex(f.stream)}`}
                {f.iova !== null && (
                  <>
                    {' '}
                    at <span class="mono">{hex(f.iova)}</span>
                  </>
                )}
                {f.count > 1 && `, ${f.count} times`}
              </p>
              <p>{f.message}</p>
              <p class="ends">
                from {f.events.map((e, k) => (k === 0 ? event(e) : <> to {event(e)}</>))}
                {f.last !== f.events.at(-1) && <>, last at {event(f.last)}</>}
              </p>
            </li>
          ))}
        </ol>
      </section>
      <section>
        <h3>Replay and recording</h3>
        {!run.replayed && <p class="faint">nothing was replayed: guest memory was not recorded</p>}
        {run.replayed && run.differing === 0 && (
          <p class="faint">everything the machine answered is as it was recorded</p>
        )}
        {run.differing > 0 && <p>{run.differing} differences; the first:</p>}
        <ol>
          {run.differences.slice(0, 50).map((d) => (
            <li key={`${d.i} ${d.what}`}>
              <p>
                {event(d.i)}: {d.what}
              </p>
              <dl class="values">
                <div>
                  <dt>recorded</dt>
                  <dd class="mono">{d.expected}</dd>
                </div>
                <div class="differs">
                  <dt>this machine</dt>
                  <dd class="mono">{d.got}</dd>
                </div>
              </dl>
            </li>
          ))}
        </ol>
      </section>
    </div>
  );
}
