import type { Course } from './course.ts';

/** Completions after which a driver that meant to answer or drain would have done it. */
const SETTLED = 3;

interface Group {
  readonly stream: number;
  readonly pasid: number;
  readonly page: number;
  readonly event: number;
  readonly completions: number;
  /** An answer is asked for. */
  last: boolean;
}

interface Gone {
  readonly event: number;
  readonly completions: number;
  /** The queue was drained behind it. */
  drained: boolean;
}

/** The rules about page requests, their answers, and stalls: one answer to each group, and none left behind. */
export class PageRequestRules {
  readonly #course: Course;
  readonly #open = new Map<string, Group>();
  /** Groups that were answered, and the event that did it. */
  readonly #answered = new Map<string, number>();
  readonly #gone = new Map<string, Gone>();
  readonly #stalls = new Map<string, number>();
  /** A request was ever told. */
  #any = false;

  constructor(course: Course) {
    this.#course = course;
  }

  /** A request was written into the queue. @param pasid -1: none. */
  queued(stream: number, pasid: number, group: number, last: boolean, page: number): void {
    this.#any = true;
    const key = `${stream}/${pasid}/${group}`;
    const open = this.#open.get(key);
    this.#answered.delete(key);
    this.#asked(stream, pasid, page);
    if (open !== undefined) {
      open.last ||= last;
      return;
    }
    const { event, completions } = this.#course;
    this.#open.set(key, { stream, pasid, page, event, completions, last });
  }

  #asked(stream: number, pasid: number, page: number): void {
    const gone = this.#gone.get(`${stream}/${pasid}`);
    if (gone === undefined) return;
    this.#course.findings.add('page-request-after-teardown', {
      stream,
      pasid: pasid < 0 ? undefined : pasid,
      page,
      events: [gone.event, this.#course.event],
      message: `the function asked for a page of an address space that was taken away: stop its requests first`,
    });
  }

  /** An answer was issued. */
  answered(stream: number, pasid: number, group: number): void {
    const key = `${stream}/${pasid}/${group}`;
    const { findings, event } = this.#course;
    const found = { stream, pasid: pasid < 0 ? undefined : pasid };
    if (this.#open.delete(key)) {
      this.#answered.set(key, event);
      return;
    }
    const before = this.#answered.get(key);
    if (before !== undefined) {
      findings.add('response-twice', {
        ...found,
        events: [before, event],
        message: `page request group ${group} was answered a second time: the answer may go to a new group with the same index`,
      });
    } else if (this.#any) {
      findings.add('response-unknown', {
        ...found,
        events: [event],
        message: `the answer names group ${group}, for which there is no page request: stream, PASID or index is wrong`,
      });
    }
  }

  /** An address space is no longer there. */
  tornDown(stream: number, pasid: number): void {
    const { event, completions } = this.#course;
    this.#gone.set(`${stream}/${pasid}`, { event, completions, drained: false });
  }

  /** An address space is there: requests of one that was before under the same name must be gone. */
  given(stream: number, pasid: number): void {
    const key = `${stream}/${pasid}`;
    const gone = this.#gone.get(key);
    if (gone === undefined) return;
    this.#gone.delete(key);
    for (const g of this.#open.values()) {
      if (g.stream === stream && g.pasid === pasid && g.event < this.#course.event)
        this.#undrained(g, gone, this.#course.event);
    }
  }

  #undrained(g: Group, gone: Gone, event: number): void {
    this.#course.findings.add('pasid-not-drained', {
      stream: g.stream,
      pasid: g.pasid < 0 ? undefined : g.pasid,
      page: g.page,
      events: [g.event, gone.event, ...(event === gone.event ? [] : [event])],
      message: `the address space was given away while a page request of it was queued: drain the queue and answer first, or the request is taken for one of its successor`,
    });
  }

  /** Everything asked before is visible in the queue (VT-d §6.5.2.9, PD). */
  drained(): void {
    for (const g of this.#gone.values()) g.drained = true;
  }

  stalled(stream: number, tag: number): void {
    this.#stalls.set(`${stream}/${tag}`, this.#course.event);
  }

  resumed(stream: number, tag: number): void {
    if (this.#stalls.delete(`${stream}/${tag}`) || !this.#any) return;
    this.#course.findings.add('response-unknown', {
      stream,
      kind: 'stall',
      events: [this.#course.event],
      message: `CMD_RESUME names stall tag ${tag}, under which nothing is stalled`,
    });
  }

  terminated(stream: number): void {
    for (const key of this.#stalls.keys()) if (key.startsWith(`${stream}/`)) this.#stalls.delete(key);
  }

  /** The IOMMU was switched off: nothing waits any more. */
  reset(): void {
    this.#open.clear();
    this.#answered.clear();
    this.#gone.clear();
    this.#stalls.clear();
  }

  finish(): void {
    const { completions, findings } = this.#course;
    for (const [key, event] of this.#stalls) {
      findings.add('stall-never-resumed', {
        stream: Number(key.split('/')[0]),
        events: [event],
        message: 'a stalled access was neither resumed nor terminated: the function waits for ever',
      });
    }
    for (const g of this.#open.values()) {
      const gone = this.#gone.get(`${g.stream}/${g.pasid}`);
      if (gone !== undefined && !gone.drained && gone.completions <= completions) this.#undrained(g, gone, gone.event);
      if (!g.last || g.completions + SETTLED > completions) continue;
      findings.add('response-missing', {
        stream: g.stream,
        pasid: g.pasid < 0 ? undefined : g.pasid,
        page: g.page,
        events: [g.event],
        message: 'a page request that asks for an answer never got one: the function waits for it',
      });
    }
  }
}
