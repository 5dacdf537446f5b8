/**
 * Loads a saved state that has passed every check. When somebody refuses it in the middle (a host out of memory), the owner
 * goes back to what it was.
 * @param save gives the owner's state now; when it throws, the load begins all the same, and there is no way back.
 * @param load `anyway` is set on the way back: what is refused then, too, has to be left out.
 * @throws what `load` threw.
 */
export function loadOrReturn<T>(save: () => T, load: (state: T, anyway: boolean) => void, state: T): void {
  let before: { readonly state: T } | null = null;
  try {
    before = { state: save() };
  } catch {
    // In the middle of work that never comes to rest: a state that is loaded ends it.
  }
  try {
    load(state, false);
  } catch (error) {
    if (before !== null) load(before.state, true);
    throw error;
  }
}
