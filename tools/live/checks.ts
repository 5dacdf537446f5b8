/** Assertions of a live run: each is printed as it is made, and the run fails when one does. */
export class Checks {
  passed = 0;
  failed = 0;

  check(what: string, ok: boolean, detail: string | number = ''): void {
    if (ok) this.passed++;
    else this.failed++;
    process.stdout.write(`${ok ? '  ok  ' : '  FAIL'} ${what}${detail === '' ? '' : ` (${detail})`}\n`);
  }

  /** The closing line. @returns the exit status. */
  finish(): number {
    process.stdout.write(`${this.passed} passed, ${this.failed} failed\n`);
    return this.failed === 0 ? 0 : 1;
  }
}
