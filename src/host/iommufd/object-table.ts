import { FAILURE_STEP, type FailureSource } from '../../ports/failures.ts';
import { FreeIds } from './free-ids.ts';
import type { ObjectBase } from './object.ts';

/**
 * The id space of one iommufd: one for all kinds, the lowest free id from 1. A reserved id is taken but finds nothing until
 * `publish`; a tombstone is taken for ever and finds nothing.
 */
export class ObjectTable<O extends ObjectBase & { readonly kind: string }> {
  readonly #live = new Map<number, O>();
  readonly #free = new FreeIds();
  readonly #source: FailureSource;
  #next = 1;
  #taken = 0;

  constructor(source: FailureSource) {
    this.#source = source;
  }

  /** Takes the lowest free id. @returns 0: there is no memory for the object (ENOMEM). */
  reserve(): number {
    if (this.#source.failures?.fails(FAILURE_STEP.OBJECT)) return 0;
    this.#taken++;
    return this.#free.pop() || this.#next++;
  }

  /** Gives an id back that never became visible. */
  release(id: number): void {
    this.#taken--;
    this.#free.push(id);
  }

  /** From now on the object is found by its id. */
  publish(object: O): void {
    this.#live.set(object.id, object);
  }

  /** The object of any kind; null: there is none. */
  any(id: number): O | null {
    return this.#live.get(id) ?? null;
  }

  /** The object if it is of this kind. */
  get<K extends O['kind']>(id: number, kind: K): Extract<O, { readonly kind: K }> | null {
    const o = this.#live.get(id);
    return o !== undefined && o.kind === kind ? (o as Extract<O, { readonly kind: K }>) : null;
  }

  /** Makes the object invisible, runs its destructor and frees its id, or leaves a tombstone. */
  remove(object: O, tombstone = false): void {
    this.#live.delete(object.id);
    object.destroy();
    if (tombstone) this.#taken--;
    else this.release(object.id);
  }

  /** Whether no object exists or is being made (tombstones do not count). */
  get empty(): boolean {
    return this.#taken === 0;
  }

  /** Visible objects. */
  get size(): number {
    return this.#live.size;
  }

  /** Visible objects in the order of publication. */
  objects(): IterableIterator<O> {
    return this.#live.values();
  }
}
