/**
 * One translation context: an address space a cache tells apart, (VMID, ASID) or (domain id, PASID). Its live tag is what
 * entries carry; giving it a new one makes every old entry unreachable at once.
 */
export interface TlbContext {
  readonly domain: number;
  /** -1: the domain's own (stage 2, second stage). */
  readonly id: number;
  /** 1..65535; 0: this object is dead, ask for the context again. */
  tag: number;
  /** Bit per size class that may be cached. */
  sizes: number;
  /** The same for cached table walks. */
  walks: number;
  /** log2 bytes of the largest guest leaf that is cached in smaller pieces; 0: none is. */
  split: number;
}

export interface TlbDomain {
  readonly contexts: TlbContext[];
  /** A global mapping was cached in one of the contexts. */
  globals: boolean;
}

const LAST_TAG = 0xffff;

export interface TlbTagsData {
  readonly next: number;
  readonly contexts: readonly (readonly [
    domain: number,
    id: number,
    tag: number,
    sizes: number,
    walks: number,
    split: number,
  ])[];
  readonly globals: readonly number[];
}

/**
 * The live tags of all contexts. Renewal is O(1), except that after 65535 renewals the tables are cleared once
 * (`onWrap`) and counting starts again.
 */
export class TlbTags {
  readonly #limit: number;
  readonly #onWrap: () => void;
  readonly #domains = new Map<number, TlbDomain>();
  #byId = new Map<number, Map<number, TlbContext>>();
  #count = 0;
  #next = 1;
  #last: TlbContext | null = null;
  /** Bit per tag: set for those of contexts. */
  readonly live = new Int32Array((LAST_TAG + 1) / 32);

  /** @param limit contexts kept at once; one more and all are forgotten. @param onWrap clears every table with tags. */
  constructor(limit: number, onWrap: () => void) {
    this.#limit = limit;
    this.#onWrap = onWrap;
  }

  find(domain: number, id: number): TlbContext | null {
    const last = this.#last;
    if (last !== null && last.domain === domain && last.id === id) return last;
    const hit = this.#byId.get(domain)?.get(id) ?? null;
    if (hit !== null) this.#last = hit;
    return hit;
  }

  /** The context, made on first use. */
  get(domain: number, id: number): TlbContext {
    const hit = this.find(domain, id);
    if (hit !== null) return hit;
    if (this.#count >= this.#limit) this.forget();
    const context: TlbContext = { domain, id, tag: 0, sizes: 0, walks: 0, split: 0 };
    this.#add(context);
    this.renew(context);
    return context;
  }

  #add(context: TlbContext): void {
    const { domain, id } = context;
    if (context.tag !== 0) this.#revive(context.tag);
    let ids = this.#byId.get(domain);
    if (ids === undefined) {
      ids = new Map();
      this.#byId.set(domain, ids);
      this.#domains.set(domain, { contexts: [], globals: false });
    }
    ids.set(id, context);
    this.#domains.get(domain)!.contexts.push(context);
    this.#count++;
    this.#last = context;
  }

  domain(domain: number): TlbDomain | null {
    return this.#domains.get(domain) ?? null;
  }

  domains(): Iterable<TlbDomain> {
    return this.#domains.values();
  }

  /** Makes every entry of the context unreachable. */
  renew(context: TlbContext): void {
    if (context.sizes === 0 && context.walks === 0 && context.tag !== 0) return;
    if (this.#next > LAST_TAG) this.#wrap();
    this.live[context.tag >>> 5]! &= ~(1 << context.tag);
    context.tag = this.#next++;
    this.#revive(context.tag);
    context.sizes = 0;
    context.walks = 0;
    context.split = 0;
  }

  #revive(tag: number): void {
    this.live[tag >>> 5]! |= 1 << tag;
  }

  #wrap(): void {
    this.#onWrap();
    this.live.fill(0);
    this.#next = 1;
    for (const d of this.#domains.values()) {
      for (const c of d.contexts) {
        c.tag = this.#next++;
        this.#revive(c.tag);
        c.sizes = 0;
        c.split = 0;
        c.walks = 0;
      }
    }
  }

  /** Drops every context; objects handed out are dead from now on. */
  forget(): void {
    for (const d of this.#domains.values()) {
      for (const c of d.contexts) {
        c.tag = 0;
        c.sizes = 0;
        c.split = 0;
        c.walks = 0;
      }
    }
    this.#domains.clear();
    this.#byId = new Map();
    this.#count = 0;
    this.#last = null;
    this.#next = 1;
    this.live.fill(0);
    this.#onWrap();
  }

  save(): TlbTagsData {
    const contexts: TlbTagsData['contexts'][number][] = [];
    const globals: number[] = [];
    for (const [number, d] of this.#domains) {
      for (const c of d.contexts) contexts.push([c.domain, c.id, c.tag, c.sizes, c.walks, c.split]);
      if (d.globals) globals.push(number);
    }
    return { next: this.#next, contexts, globals };
  }

  load(data: TlbTagsData): void {
    this.forget();
    for (const [domain, id, tag, sizes, walks, split] of data.contexts) {
      this.#add({ domain, id, tag, sizes, walks, split });
    }
    for (const d of data.globals) this.#domains.get(d)!.globals = true;
    this.#next = data.next;
  }
}
