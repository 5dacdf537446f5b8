/** What a test program of the kernel's harness said about one case. */
export interface TapCase {
  readonly fixture: string;
  readonly name: string;
  readonly result: 'pass' | 'skip' | 'fail';
}

export interface TapReport {
  /** How many cases the program announced; 0: it announced none. */
  readonly planned: number;
  readonly cases: readonly TapCase[];
}

/** Reads the lines "1..N", "ok N fixture[.variant].test[ # SKIP …]" and "not ok N …". */
export function parseTap(text: string): TapReport {
  let planned = 0;
  const cases: TapCase[] = [];
  for (const line of text.split('\n')) {
    const plan = /^1\.\.(\d+)/.exec(line);
    if (plan !== null) planned = Number(plan[1]);
    const m = /^(not )?ok \d+ (\S+)(.*)$/.exec(line);
    if (m === null) continue;
    const name = m[2]!;
    const skip = /# SKIP/.test(m[3]!);
    const result = m[1] !== undefined ? 'fail' : skip ? 'skip' : 'pass';
    cases.push({ fixture: name.split('.')[0]!, name, result });
  }
  return { planned, cases };
}
