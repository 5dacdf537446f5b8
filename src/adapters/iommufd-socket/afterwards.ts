/** Runs what a server has put off. Whatever an action throws is told to its owner: an exception in a timer would end the process. */
export class Afterwards {
  readonly #failed: (error: unknown) => void;

  /** @param failed hears what an action has thrown. */
  constructor(failed: (error: unknown) => void) {
    this.#failed = failed;
  }

  /** When everything the system had to tell has been told. */
  later(action: () => void): void {
    setImmediate(() => this.#run(action));
  }

  /** Behind the access or the request under way, before anything else is looked at. */
  soon(action: () => void): void {
    queueMicrotask(() => this.#run(action));
  }

  /** After some milliseconds, if the process is still there then. */
  after(milliseconds: number, action: () => void): void {
    setTimeout(() => this.#run(action), milliseconds).unref();
  }

  #run(action: () => void): void {
    try {
      action();
    } catch (e) {
      this.#failed(e);
    }
  }
}
