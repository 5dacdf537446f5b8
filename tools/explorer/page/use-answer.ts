import { useEffect, useRef, useState } from 'preact/hooks';
import type { Client } from './client.ts';
import type { QuestionName, Questions } from './protocol.ts';

/** What became of a question. */
export interface Answer<T> {
  /** The last answer there was, also while the next one is on its way. */
  readonly value: T | null;
  readonly error: string;
  readonly waiting: boolean;
}

/**
 * The answer to a question that changes. One is under way at a time: while somebody scrubs, questions that are no longer of
 * interest are left out. @param key says when the question is another one; null: nothing is asked.
 */
export function useAnswer<Q extends QuestionName>(
  client: Client,
  what: Q,
  how: Questions[Q][0],
  key: string | null,
): Answer<Questions[Q][1]> {
  const [answer, setAnswer] = useState<Answer<Questions[Q][1]>>({ value: null, error: '', waiting: key !== null });
  const wanted = useRef({ how, key, client });
  wanted.current = { how, key, client };
  const busy = useRef(false);
  const alive = useRef(true);
  useEffect(() => {
    alive.current = true;
    return () => {
      alive.current = false;
    };
  }, []);
  useEffect(() => {
    if (key === null || busy.current) return;
    const next = async () => {
      busy.current = true;
      setAnswer((a) => ({ ...a, waiting: true }));
      const { how: asked, key: askedKey, client: of } = wanted.current;
      let result: Answer<Questions[Q][1]>;
      try {
        result = { value: await of.ask(what, asked), error: '', waiting: false };
      } catch (e) {
        result = { value: null, error: (e as Error).message, waiting: false };
      }
      busy.current = false;
      if (!alive.current) return;
      setAnswer(result);
      if (wanted.current.key !== null && (wanted.current.key !== askedKey || wanted.current.client !== of)) void next();
    };
    void next();
  }, [key, client, what]);
  return answer;
}
