import { ViommuError } from '../../core/errors.ts';

/** Life of a PASID: free, allocated, or given back but still draining. */
const FREE = 0;
const TAKEN = 1;
const DRAINING = 2;

interface Entry {
  state: number;
  owner: PasidHandle | null;
  /** The caller's private data. */
  data: unknown;
  /** Users besides the owner that have not said they are done. */
  users: number;
  /** A drain is under way. */
  draining: boolean;
}

/**
 * The PASIDs of one host, from `min` to `max` - 1, shared by everybody who opened a handle. A PASID exists without any
 * address space behind it. One that was given back is not handed out again before every user said it is done and the
 * drain has finished. 0 is reserved.
 */
export class PasidSpace {
  /** First PASID handed out. */
  readonly min: number;
  /** One more than the last PASID handed out. */
  readonly max: number;
  readonly #entries = new Map<number, Entry>();
  #next: number;

  /** @throws ViommuError `EINVAL` unless 1 ≤ min < max ≤ 2^20. */
  constructor(min: number, max: number) {
    if (!(min >= 1 && min < max && max <= 2 ** 20)) {
      throw new ViommuError('EINVAL', 'caller', 'a PASID space lies within [1, 2^20)', { min, max });
    }
    this.min = min;
    this.max = max;
    this.#next = min;
  }

  /** A new user of the space. */
  open(): PasidHandle {
    return new PasidHandle(this);
  }

  /** PASIDs that cannot be handed out now. */
  get busy(): number {
    return this.#entries.size;
  }

  /** @returns the lowest free PASID behind the last one given out, or -1. */
  take(owner: PasidHandle, data: unknown): number {
    const n = this.max - this.min;
    for (let i = 0; i < n; i++) {
      const p = this.min + ((this.#next - this.min + i) % n);
      if (this.#entries.has(p)) continue;
      this.#entries.set(p, { state: TAKEN, owner, data, users: 0, draining: false });
      this.#next = p + 1 === this.max ? this.min : p + 1;
      return p;
    }
    return -1;
  }

  /** Who holds an allocated PASID; null: nobody. */
  ownerOf(pasid: number): PasidHandle | null {
    const e = this.#entries.get(pasid);
    return e?.state === TAKEN ? e.owner : null;
  }

  /** The private data given with an allocated PASID; undefined when it is not allocated. */
  dataOf(pasid: number): unknown {
    const e = this.#entries.get(pasid);
    return e?.state === TAKEN ? e.data : undefined;
  }

  /** Another user appears: the PASID outlives its owner's `free` until this user is done. @returns false: not allocated. */
  hold(pasid: number): boolean {
    const e = this.#entries.get(pasid);
    if (e?.state !== TAKEN) return false;
    e.users++;
    return true;
  }

  /** A user is done. */
  done(pasid: number): void {
    const e = this.#entries.get(pasid);
    if (e === undefined || e.users === 0) return;
    e.users--;
    this.#settle(pasid, e);
  }

  /** @param drain true: `drained` will be called when nothing of the PASID is in flight any more. */
  giveBack(pasid: number, drain: boolean): void {
    const e = this.#entries.get(pasid);
    if (e?.state !== TAKEN) return;
    e.state = DRAINING;
    e.owner = null;
    e.data = undefined;
    e.draining = drain;
    this.#settle(pasid, e);
  }

  /** Nothing of a PASID that was given back is in flight any more: it may be handed out again. */
  drained(pasid: number): void {
    const e = this.#entries.get(pasid);
    if (e === undefined) return;
    e.draining = false;
    this.#settle(pasid, e);
  }

  #settle(pasid: number, e: Entry): void {
    if (e.state === DRAINING && e.users === 0 && !e.draining) {
      e.state = FREE;
      this.#entries.delete(pasid);
    }
  }
}

/** One opener's share; when it closes, whatever is left is given back. */
export class PasidHandle {
  readonly #space: PasidSpace;
  readonly #mine = new Set<number>();
  #closed = false;

  constructor(space: PasidSpace) {
    this.#space = space;
  }

  /** @param data private, found again by `space.dataOf`. @returns -1 when none is free, or the handle is closed. */
  allocate(data: unknown = undefined): number {
    if (this.#closed) return -1;
    const pasid = this.#space.take(this, data);
    if (pasid >= 0) this.#mine.add(pasid);
    return pasid;
  }

  /** @param drain see `PasidSpace.giveBack`. @returns false when this handle does not own it. */
  free(pasid: number, drain = false): boolean {
    if (!this.#mine.delete(pasid)) return false;
    this.#space.giveBack(pasid, drain);
    return true;
  }

  /** Whether this handle holds the PASID. */
  owns(pasid: number): boolean {
    return this.#mine.has(pasid);
  }

  /** Nothing is handed out any more. What is there stays until it is given back. */
  shut(): void {
    this.#closed = true;
  }

  /** Gives everything back that is left, without waiting for drains, and hands nothing out any more. */
  close(): void {
    this.shut();
    for (const pasid of [...this.#mine]) this.free(pasid);
  }
}
