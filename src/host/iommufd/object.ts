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
