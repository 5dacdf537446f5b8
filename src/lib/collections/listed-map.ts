/** A map whose values can also be walked by index, so that an invalidation allocates nothing. Order is of no meaning. */
export class ListedMap<K, V> {
  readonly list: V[] = [];
  readonly #map = new Map<K, V>();

  get(key: K): V | undefined {
    return this.#map.get(key);
  }

  has(key: K): boolean {
    return this.#map.has(key);
  }

  set(key: K, value: V): void {
    const old = this.#map.get(key);
    if (old === undefined) this.list.push(value);
    else this.list[this.list.indexOf(old)] = value;
    this.#map.set(key, value);
  }

  delete(key: K): void {
    const old = this.#map.get(key);
    if (old === undefined) return;
    this.#map.delete(key);
    this.list.splice(this.list.indexOf(old), 1);
  }
}
