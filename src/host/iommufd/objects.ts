import type { AccessObject } from './access.ts';
import type { Device } from './attach.ts';
import type { FaultQueue } from './fault.ts';
import type { NestedHwpt, PagingHwpt } from './hwpt.ts';
import type { Ioas } from './ioas/ioas.ts';
import type { VeventQueue } from './veventq.ts';
import type { HwQueue, Vdevice, Viommu } from './viommu.ts';

/** What every object of an iommufd has. `users` counts the references that make DESTROY answer EBUSY. */
export interface ObjectBase {
  id: number;
  users: number;
  /** Frees what the object holds. Called once, when nobody uses it. */
  destroy(): void;
}

/** Objects whose kind the core does not know (the mock's SELFTEST objects). */
export interface ForeignObject extends ObjectBase {
  readonly kind: 'foreign';
}

export type IommufdObject =
  | Ioas
  | PagingHwpt
  | NestedHwpt
  | Device
  | FaultQueue
  | Viommu
  | Vdevice
  | VeventQueue
  | HwQueue
  | AccessObject
  | ForeignObject;

export type Kind = IommufdObject['kind'];
export type ObjectOf<K extends Kind> = Extract<IommufdObject, { readonly kind: K }>;

/** A minimum heap of freed ids. */
class FreeIds {
  readonly #heap: number[] = [];

  push(id: number): void {
    const h = this.#heap;
    let i = h.push(id) - 1;
    while (i > 0) {
      const up = (i - 1) >> 1;
      if (h[up]! <= id) break;
      h[i] = h[up]!;
      i = up;
    }
    h[i] = id;
  }

  pop(): number {
    const h = this.#heap;
    const top = h[0];
    if (top === undefined) return 0;
    const last = h.pop()!;
    const n = h.length;
    if (n === 0) return top;
    let i = 0;
    for (;;) {
      let down = 2 * i + 1;
      if (down >= n) break;
      if (down + 1 < n && h[down + 1]! < h[down]!) down++;
      if (h[down]! >= last) break;
      h[i] = h[down]!;
      i = down;
    }
    h[i] = last;
    return top;
  }
}

/**
 * The id space of one iommufd: one for all kinds, the lowest free id from 1. A reserved id is taken but finds nothing until
 * `publish`; a tombstone is taken for ever and finds nothing.
 */
export class ObjectTable {
  readonly #live = new Map<number, IommufdObject>();
  readonly #free = new FreeIds();
  #next = 1;
  #taken = 0;

  /** Takes the lowest free id. */
  reserve(): number {
    this.#taken++;
    return this.#free.pop() || this.#next++;
  }

  /** Gives an id back that never became visible. */
  release(id: number): void {
    this.#taken--;
    this.#free.push(id);
  }

  publish(object: IommufdObject): void {
    this.#live.set(object.id, object);
  }

  any(id: number): IommufdObject | null {
    return this.#live.get(id) ?? null;
  }

  get<K extends Kind>(id: number, kind: K): ObjectOf<K> | null {
    const o = this.#live.get(id);
    return o !== undefined && o.kind === kind ? (o as ObjectOf<K>) : null;
  }

  /** Makes the object invisible, runs its destructor and frees its id, or leaves a tombstone. */
  remove(object: IommufdObject, tombstone = false): void {
    this.#live.delete(object.id);
    object.destroy();
    if (tombstone) this.#taken--;
    else this.release(object.id);
  }

  /** Whether no object exists or is being made (tombstones do not count). */
  get empty(): boolean {
    return this.#taken === 0;
  }

  get size(): number {
    return this.#live.size;
  }

  objects(): IterableIterator<IommufdObject> {
    return this.#live.values();
  }
}
