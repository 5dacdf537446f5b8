import type { Answered, Asked, QuestionName, Questions } from './protocol.ts';
import ExplorerWorker from './worker.ts?worker&inline';

/** How far opening has got: events so far, and the part of the file that was read (0 to 1). */
export type OnProgress = (events: number, part: number) => void;

interface Waiting {
  readonly done: (answer: never) => void;
  readonly failed: (e: Error) => void;
  readonly progress: OnProgress | null;
}

/** A worker with one recording in it, asked from the page. */
export class Client {
  readonly #worker = new ExplorerWorker();
  readonly #waiting = new Map<number, Waiting>();
  #next = 0;

  constructor() {
    this.#worker.onmessage = ({ data }: MessageEvent<Answered>) => {
      const w = this.#waiting.get(data.id);
      if (w === undefined) return;
      if ('part' in data) {
        w.progress?.(data.events, data.part);
        return;
      }
      this.#waiting.delete(data.id);
      if ('error' in data) w.failed(new Error(data.error));
      else w.done(data.answer as never);
    };
    this.#worker.onerror = (e) => {
      const why = new Error(e.message === '' ? 'the worker of this page did not start' : e.message);
      for (const w of this.#waiting.values()) w.failed(why);
      this.#waiting.clear();
    };
  }

  /** Questions that are not answered yet. */
  get waiting(): number {
    return this.#waiting.size;
  }

  ask<Q extends QuestionName>(
    what: Q,
    how: Questions[Q][0],
    progress: OnProgress | null = null,
  ): Promise<Questions[Q][1]> {
    const id = this.#next++;
    const asked: Asked = { id, what, with: how };
    return new Promise((done, failed) => {
      this.#waiting.set(id, { done, failed, progress });
      this.#worker.postMessage(asked);
    });
  }

  close(): void {
    this.#worker.terminate();
    this.#waiting.clear();
  }
}
