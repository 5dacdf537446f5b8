/** A map whose values can also be walked by index, so that an invalidation allocates nothing. Order is of no meaning. */
export class ListedMap<K, V> {
  readonly list: V[] = [];
  /** Keys of `list`, and where each is in it. */
  readonly #keys: K[] = [];
  readonly #at = new Map<K, number>();

  get(key: K): V | undefined {
    const at = this.#at.get(key);
    return at === undefined ? undefined : this.list[at];
  }

  has(key: K): boolean {
    return this.#at.has(key);
  }

  set(key: K, value: V): void {
    const at = this.#at.get(key);
    if (at !== undefined) {
      this.list[at] = value;
      return;
    }
    this.#at.set(key, this.list.length);
    this.list.push(value);
    this.#keys.push(key);
  }

  /** The last value takes the place of the one that goes. */
  delete(key: K): void {
    const at = this.#at.get(key);
    if (at === undefined) return;
    this.#at.delete(key);
    const last = this.list.pop()!;
    const lastKey = this.#keys.pop()!;
    if (at === this.list.length) return;
    this.list[at] = last;
    this.#keys[at] = lastKey;
    this.#at.set(lastKey, at);
  }
}
