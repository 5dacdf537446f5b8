/**
 * The way back of an operation that takes several steps: each step that succeeded says how it is taken back, and when a
 * later one fails `run` takes them all back, the last one first.
 */
export class Undo {
  readonly #steps: (() => void)[] = [];

  add(step: () => void): void {
    this.#steps.push(step);
  }

  run(): void {
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) step();
  }
}
