/**
 * Devices that the host cannot tell apart (Linux: one IOMMU group): it has one domain for all of them in each PASID slot, and what
 * one of them is moved to, the others are moved to as well.
 */
export class IsolationGroups<T> {
  readonly #byName = new Map<string, Set<T>>();

  /**
   * A device comes.
   * @param name the host's name of its group; undefined: it is alone. @returns all of the group, now and later.
   */
  join(name: string | undefined, device: T): ReadonlySet<T> {
    const group = (name === undefined ? undefined : this.#byName.get(name)) ?? new Set();
    group.add(device);
    if (name !== undefined) this.#byName.set(name, group);
    return group;
  }

  /** A device goes. */
  leave(name: string | undefined, device: T): void {
    if (name === undefined) return;
    const group = this.#byName.get(name);
    group?.delete(device);
    if (group?.size === 0) this.#byName.delete(name);
  }
}
