import type { ComponentChildren } from 'preact';
import type { MappingChange } from '../model/changes.ts';
import type { Client } from './client.ts';
import { count, sizeOf } from './format.ts';
import type { Run } from './protocol.ts';
import { useAnswer } from './use-answer.ts';

interface Props {
  readonly client: Client;
  readonly run: Run;
  /** Events of the marks; -1: not set. */
  readonly a: number;
  readonly b: number;
  readonly onMark: (which: 'a' | 'b', event: number) => void;
  readonly onQuery: (query: string) => void;
}

const MOST = 60;

/** What changed between two events. */
export function ChangesPanel({ client, run, a, b, onMark, onQuery }: Props) {
  const [from, to] = a <= b ? [a, b] : [b, a];
  const set = a >= 0 && b >= 0;
  const { value, error, waiting } = useAnswer(
    client,
    'changes',
    { a: from, b: to },
    set && run.replayed ? `${from} ${to}` : null,
  );
  const field = (which: 'a' | 'b', event: number) => (
    <label>
      {which.toUpperCase()} before event{' '}
      <input
        type="number"
        min={0}
        max={run.events}
        value={event < 0 ? '' : event}
        onChange={(e) => onMark(which, Number(e.currentTarget.value))}
      />
    </label>
  );
  return (
    <div class="changes" aria-busy={waiting}>
      <div class="fields">
        {field('a', a)} {field('b', b)}
        {set && (
          <button type="button" onClick={() => onQuery(`event:${from}..${to - 1}`)}>
            List what happened between
          </button>
        )}
      </div>
      {!set && (
        <p class="empty">Mark two events as A and B (keys a and b) to see what changed from one to the other.</p>
      )}
      {!run.replayed && <p class="empty">Guest memory was not recorded: there are no states to compare.</p>}
      {error !== '' && <p class="error">{error}</p>}
      {value !== null && set && (
        <>
          <Section title="Registers" empty={value.registers.length === 0}>
            <table>
              <tbody>
                {value.registers.map((r) => (
                  <tr key={r.name}>
                    <th scope="row">{r.name}</th>
                    <td class="mono gone">{r.before.value}</td>
                    <td aria-hidden="true">→</td>
                    <td class="mono come">{r.after.value}</td>
                    <td>
                      {r.after.fields
                        .filter((f, k) => f.value !== r.before.fields[k]?.value)
                        .map((f) => (
                          <span key={f.name} class="field">
                            {f.name} {r.before.fields.find((x) => x.name === f.name)?.value} → {f.value}
                          </span>
                        ))}
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Section>
          <Lines title="Streams" gone={value.streams.gone} come={value.streams.come} />
          <Lines title="Mappings" gone={value.mappings.gone.map(mapping)} come={value.mappings.come.map(mapping)} />
          <Lines
            title="Host objects"
            gone={value.objects.gone.map((o) => `${o.id}: ${o.text}`)}
            come={value.objects.come.map((o) => `${o.id}: ${o.text}`)}
          />
          <Lines
            title="Attachments"
            gone={value.attachments.gone.map((x) => `${x.device} to ${x.to}`)}
            come={value.attachments.come.map((x) => `${x.device} to ${x.to}`)}
          />
          <Lines
            title="Cached translations"
            gone={value.cached.gone.map((c) => `${c.context}: ${c.input} (${sizeOf(c.shift)}) → ${c.out} ${c.rights}`)}
            come={value.cached.come.map((c) => `${c.context}: ${c.input} (${sizeOf(c.shift)}) → ${c.out} ${c.rights}`)}
          />
        </>
      )}
    </div>
  );
}

function mapping(m: MappingChange): string {
  return `${m.where}: ${m.from}, ${m.bytes} bytes → ${m.to} ${m.rights}`;
}

interface SectionProps {
  readonly title: string;
  readonly empty: boolean;
  readonly children: ComponentChildren;
}

function Section({ title, empty, children }: SectionProps) {
  return (
    <section>
      <h3>{title}</h3>
      {empty ? <p class="faint">the same</p> : children}
    </section>
  );
}

interface LinesProps {
  readonly title: string;
  readonly gone: readonly string[];
  readonly come: readonly string[];
}

function Lines({ title, gone, come }: LinesProps) {
  return (
    <Section title={title} empty={gone.length + come.length === 0}>
      <ul class="lines">
        {gone.slice(0, MOST).map((t) => (
          <li key={`-${t}`} class="mono gone">
            <span aria-hidden="true">- </span>
            <span class="sr">gone: </span>
            {t}
          </li>
        ))}
        {gone.length > MOST && <li class="faint">and {count(gone.length - MOST)} more that are gone</li>}
        {come.slice(0, MOST).map((t) => (
          <li key={`+${t}`} class="mono come">
            <span aria-hidden="true">+ </span>
            <span class="sr">new: </span>
            {t}
          </li>
        ))}
        {come.length > MOST && <li class="faint">and {count(come.length - MOST)} more that are new</li>}
      </ul>
    </Section>
  );
}
