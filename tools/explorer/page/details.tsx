import type { Client } from './client.ts';
import { hex, streamName, summary } from './format.ts';
import type { RunIndex } from './lines.ts';
import type { MomentView } from './protocol.ts';
import { useAnswer } from './use-answer.ts';

interface Props {
  readonly client: Client;
  readonly index: RunIndex;
  readonly selected: number;
  readonly onSelect: (n: number) => void;
  readonly onQuery: (query: string) => void;
  readonly onQuestion: (kind: 'maps' | 'reaches', value: string) => void;
  readonly onMark: (which: 'a' | 'b', event: number) => void;
}

const MOST_EFFECTS = 60;
const MOST_CAUSES = 30;

/** One moment: what it says, what led to it, what it led to, and for an access its way through the guest's tables. */
export function Details({ client, index, selected, onSelect, onQuery, onQuestion, onMark }: Props) {
  const { run } = index;
  const causes = selected < 0 ? [] : index.causes(selected, MOST_CAUSES);
  const effects = selected < 0 ? new Int32Array(0) : index.effects(selected);
  const listed = [selected, ...causes, ...effects.subarray(0, MOST_EFFECTS)];
  const { value, error } = useAnswer(client, 'moments', listed, selected < 0 ? null : `${selected}`);
  const event = selected < 0 ? -1 : run.event[selected]!;
  const lane = selected < 0 ? '' : run.rows[run.row[selected]!]!.lane;
  const asks = lane === 'accesses' || lane === 'page requests' || lane === 'faults';
  const access = useAnswer(client, 'access', { event }, asks ? `${event}` : null);
  if (selected < 0)
    return <p class="empty">Select a moment in the timeline or in the list. Its causes and effects are shown here.</p>;
  if (error !== '') return <p class="error">{error}</p>;
  const m = value?.find((x) => x.n === selected);
  if (m === undefined) return <p class="waiting">…</p>;
  const of = (n: number) => value?.find((x) => x.n === n);
  return (
    <article class="details">
      <header>
        <h2>{m.name}</h2>
        <p class="where">
          <span class={`badge lane-${run.row[selected]}`}>{m.lane}</span> event {m.event}, moment {m.n}
          {m.stream >= 0 && `, stream ${streamName(run, m.stream)}`}
        </p>
      </header>
      <Values of={m} />
      <div class="buttons">
        {m.stream >= 0 && (
          <button type="button" onClick={() => onQuery(`about:${hex(m.stream)}`)}>
            Everything about {streamName(run, m.stream)}
          </button>
        )}
        <button type="button" onClick={() => onMark('a', m.event)}>
          Mark A here
        </button>
        <button type="button" onClick={() => onMark('b', m.event)}>
          Mark B here
        </button>
      </div>
      <section>
        <h3>Caused by</h3>
        {causes.length === 0 ? (
          <p class="faint">nothing that was recorded: this is where it begins</p>
        ) : (
          <ol class="chain">
            {causes.map((n) => (
              <Step key={n} n={n} m={of(n)} onSelect={onSelect} />
            ))}
          </ol>
        )}
      </section>
      <section>
        <h3>Led to{effects.length > 0 ? ` (${effects.length})` : ''}</h3>
        {effects.length === 0 ? (
          <p class="faint">nothing</p>
        ) : (
          <ol class="chain">
            {[...effects.subarray(0, MOST_EFFECTS)].map((n) => (
              <Step key={n} n={n} m={of(n)} onSelect={onSelect} />
            ))}
          </ol>
        )}
        {effects.length > MOST_EFFECTS && <p class="faint">and {effects.length - MOST_EFFECTS} more</p>}
      </section>
      {asks && access.value !== null && (
        <section class="walk">
          <h3>Its way through the guest's tables</h3>
          <div class="buttons">
            <button type="button" onClick={() => onQuestion('maps', access.value!.iova)}>
              Who maps {access.value.iova}?
            </button>
            {access.value.page !== '' && (
              <button type="button" onClick={() => onQuestion('reaches', access.value!.page)}>
                Who reaches page {access.value.page}?
              </button>
            )}
          </div>
          {access.value.walk === null ? (
            <p class="faint">guest memory was not recorded</p>
          ) : (
            <>
              <table>
                <thead>
                  <tr>
                    <th scope="col">entry</th>
                    <th scope="col">at</th>
                    <th scope="col">content</th>
                    <th scope="col">stored by</th>
                  </tr>
                </thead>
                <tbody>
                  {access.value.walk.entries.map((e, k) => (
                    <tr key={k}>
                      <td>{e.what}</td>
                      <td class="mono">{hex(e.at)}</td>
                      <td class="mono">{wordsOf(e.words)}</td>
                      <td>
                        {e.store < 0 ? (
                          <span class="faint">before the recording</span>
                        ) : (
                          <button type="button" class="link" onClick={() => onSelect(e.store)}>
                            event {run.event[e.store]}
                          </button>
                        )}
                      </td>
                    </tr>
                  ))}
                </tbody>
              </table>
              <p class={access.value.walk.out < 0 ? 'stops' : 'arrives'}>
                {access.value.walk.out < 0 ? 'It stops: ' : `It arrives at ${hex(access.value.walk.out)}`}
                {access.value.walk.end === ''
                  ? '.'
                  : `${access.value.walk.out < 0 ? '' : ': '}${access.value.walk.end}.`}
              </p>
            </>
          )}
        </section>
      )}
    </article>
  );
}

/** 64-bit words, the lowest first; entries of more than two only as far as they are not zero. */
function wordsOf(words: readonly number[]): string {
  const pairs: string[] = [];
  for (let n = 0; n < words.length; n += 2) {
    const text = (w: number) => (w >>> 0).toString(16).padStart(8, '0');
    pairs.push(`${text(words[n + 1] ?? 0)}${text(words[n]!)}`);
  }
  while (pairs.length > 1 && /^0+$/.test(pairs.at(-1)!)) pairs.pop();
  return pairs.join(' ');
}

function Values({ of }: { readonly of: MomentView }) {
  const pairs = [...of.decoded, ...Object.entries(of.args)];
  if (pairs.length === 0) return null;
  return (
    <dl class="values">
      {pairs.map(([name, value]) => (
        <div key={name} class={name === 'got' ? 'differs' : ''}>
          <dt>{name === 'got' ? 'this machine' : name}</dt>
          <dd class="mono">{`${value}`}</dd>
        </div>
      ))}
    </dl>
  );
}

interface StepProps {
  readonly n: number;
  readonly m: MomentView | undefined;
  readonly onSelect: (n: number) => void;
}

function Step({ n, m, onSelect }: StepProps) {
  return (
    <li>
      <button type="button" class="step" onClick={() => onSelect(n)}>
        <span class="event">{m?.event ?? ''}</span> <b>{m?.name ?? '…'}</b>{' '}
        <span class="args">{m === undefined ? '' : summary(m)}</span>
      </button>
    </li>
  );
}
