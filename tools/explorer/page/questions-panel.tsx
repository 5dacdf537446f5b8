import { useEffect, useState } from 'preact/hooks';
import type { MappedTime } from '../model/questions.ts';
import type { Client } from './client.ts';
import { hex, streamName } from './format.ts';
import type { Run } from './protocol.ts';
import { useAnswer } from './use-answer.ts';

/** A question that was asked. */
export interface AskedQuestion {
  readonly kind: 'maps' | 'reaches';
  /** `0x…`; of `maps` with a PASID, `0x…@0x…`. */
  readonly value: string;
}

interface Props {
  readonly client: Client;
  readonly run: Run;
  readonly asked: AskedQuestion | null;
  /** Before which event "now" is. */
  readonly event: number;
  readonly onAsk: (asked: AskedQuestion) => void;
  readonly onEvent: (event: number) => void;
  readonly onQuery: (query: string) => void;
}

const ADDRESS = '0x[0-9a-fA-F]{1,16}|[0-9]{1,16}';
const PASID = '0x[0-9a-fA-F]{1,5}|[0-9]{1,7}';

/** Questions about the whole run. */
export function QuestionsPanel({ client, run, asked, event, onAsk, onEvent, onQuery }: Props) {
  const [maps, setMaps] = useState('');
  const [pasid, setPasid] = useState('');
  const [reaches, setReaches] = useState('');
  useEffect(() => {
    if (asked?.kind === 'maps') {
      const [iova, of] = asked.value.split('@');
      setMaps(iova!);
      setPasid(of ?? '');
    }
    if (asked?.kind === 'reaches') setReaches(asked.value);
  }, [asked]);
  const form = (kind: AskedQuestion['kind'], label: string, value: string, set: (v: string) => void) => (
    <form
      onSubmit={(e) => {
        e.preventDefault();
        if (value !== '') onAsk({ kind, value: kind === 'maps' && pasid !== '' ? `${value}@${pasid}` : value });
      }}
    >
      <label for={`ask-${kind}`}>{label}</label>
      <input
        id={`ask-${kind}`}
        value={value}
        pattern={ADDRESS}
        title="an address, hexadecimal with 0x or decimal"
        placeholder="0x…"
        spellcheck={false}
        onInput={(e) => set(e.currentTarget.value)}
      />
      {kind === 'maps' && (
        <input
          id="ask-pasid"
          class="pasid"
          value={pasid}
          pattern={PASID}
          aria-label={run.iommu === 'smmuv3' ? 'SubstreamID' : 'PASID'}
          title={`${run.iommu === 'smmuv3' ? 'SubstreamID' : 'PASID'} of the accesses; empty: those without one`}
          placeholder={run.iommu === 'smmuv3' ? 'SubstreamID' : 'PASID'}
          spellcheck={false}
          onInput={(e) => setPasid(e.currentTarget.value)}
        />
      )}
      <button type="submit">Ask</button>
    </form>
  );
  const streams = [...new Set(run.rows.flatMap((r) => (r.stream < 0 ? [] : [r.stream])))];
  if (!run.replayed) return <p class="empty">Guest memory was not recorded: there are no tables to ask about.</p>;
  return (
    <div class="questions">
      {form('maps', 'Who maps the input address (IOVA)', maps, setMaps)}
      {form('reaches', 'Who can reach the guest page', reaches, setReaches)}
      <p>
        Everything about{' '}
        {streams.map((s) => (
          <button key={s} type="button" class="link" onClick={() => onQuery(`about:${hex(s)}`)}>
            {streamName(run, s)}
          </button>
        ))}
      </p>
      {asked?.kind === 'maps' && <Maps client={client} run={run} value={asked.value} onEvent={onEvent} />}
      {asked?.kind === 'reaches' && (
        <Reaches client={client} run={run} value={asked.value} event={event} onEvent={onEvent} />
      )}
    </div>
  );
}

interface AnswerProps {
  readonly client: Client;
  readonly run: Run;
  readonly value: string;
  readonly onEvent: (event: number) => void;
}

function Times({
  run,
  times,
  onEvent,
}: Pick<AnswerProps, 'run' | 'onEvent'> & { readonly times: readonly MappedTime[] }) {
  const at = (n: number, none: string) =>
    n < 0 ? (
      <span class="faint">{none}</span>
    ) : (
      <button type="button" class="link" onClick={() => onEvent(n)}>
        event {n}
      </button>
    );
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">stream</th>
          <th scope="col">address</th>
          <th scope="col">from</th>
          <th scope="col">to</th>
          <th scope="col">leads to</th>
        </tr>
      </thead>
      <tbody>
        {times.map((t) => (
          <tr key={`${t.stream} ${t.pasid} ${t.iova} ${t.from}`} class={t.out < 0 ? 'faint' : ''}>
            <td>
              {streamName(run, t.stream)}
              {t.pasid < 0 ? '' : `, ${run.iommu === 'smmuv3' ? 'SSID' : 'PASID'} ${hex(t.pasid)}`}
            </td>
            <td class="mono">{hex(t.iova)}</td>
            <td>{at(t.from, 'the beginning')}</td>
            <td>{at(t.to, 'the end')}</td>
            <td class={t.out < 0 ? '' : 'mono'}>
              {t.out < 0 ? `nowhere: ${t.end}` : `${hex(t.out)} ${t.rights}${t.end === '' ? '' : ` (${t.end})`}`}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Maps({ client, run, value, onEvent }: AnswerProps) {
  const [iova, pasid] = value.split('@');
  const how = { iova: iova!, pasid: pasid === undefined ? -1 : Number(pasid) };
  const { value: times, error, waiting } = useAnswer(client, 'whoMaps', how, value);
  return (
    <section aria-busy={waiting} class="answer">
      <h3>
        Who maps {iova}
        {pasid === undefined ? '' : ` for ${run.iommu === 'smmuv3' ? 'SubstreamID' : 'PASID'} ${pasid}`}, and when
      </h3>
      {error !== '' && <p class="error">{error}</p>}
      {waiting && <p class="waiting">following its tables through the run…</p>}
      {!waiting && times?.length === 0 && <p class="faint">no stream ever did</p>}
      {!waiting && times !== null && times.length > 0 && <Times run={run} times={times} onEvent={onEvent} />}
    </section>
  );
}

function Reaches({ client, run, value, event, onEvent }: AnswerProps & { readonly event: number }) {
  const {
    value: found,
    error,
    waiting,
  } = useAnswer(client, 'whoReaches', { address: value, event }, `${value} ${event}`);
  return (
    <section aria-busy={waiting} class="answer">
      <h3>Who can reach page {value}</h3>
      {error !== '' && <p class="error">{error}</p>}
      {waiting && <p class="waiting">looking at every table…</p>}
      {!waiting && found !== null && (
        <>
          <h4>Mapped before event {event}</h4>
          {found.mapped.length === 0 ? (
            <p class="faint">by nobody</p>
          ) : (
            <ul class="lines">
              {found.mapped.map((m) => (
                <li key={`${m.stream} ${m.space} ${m.table} ${m.iova}`}>
                  {streamName(run, m.stream)} through {m.space}, {m.table}: <span class="mono">{hex(m.iova)}</span>{' '}
                  {m.rights}
                </li>
              ))}
            </ul>
          )}
          <h4>Accessed, in the whole run</h4>
          {found.accesses.length === 0 ? (
            <p class="faint">by nobody</p>
          ) : (
            <ul class="lines">
              {found.accesses.map((r) => (
                <li key={`${r.stream} ${r.iova}`}>
                  {streamName(run, r.stream)} at <span class="mono">{hex(r.iova)}</span>,{' '}
                  {r.count === 1 ? 'once,' : `${r.count} times,`}{' '}
                  <button type="button" class="link" onClick={() => onEvent(r.first)}>
                    event {r.first}
                  </button>
                  {r.last !== r.first && (
                    <>
                      {' '}
                      to{' '}
                      <button type="button" class="link" onClick={() => onEvent(r.last)}>
                        event {r.last}
                      </button>
                    </>
                  )}
                </li>
              ))}
            </ul>
          )}
          <h4>When these addresses led there</h4>
          {found.times.length === 0 ? (
            <p class="faint">never</p>
          ) : (
            <Times run={run} times={found.times} onEvent={onEvent} />
          )}
        </>
      )}
    </section>
  );
}
