/** Who can act on an error: the guest's software, the host below, the caller of this package, or the recording. */
export type Blame = 'guest' | 'host' | 'caller' | 'trace';

/** Codes of `ViommuError`. Linux errno names where the kernel has one, `E_…` for what only this package knows. */
export type Code =
  | 'EINVAL'
  | 'ENOENT'
  | 'EBUSY'
  | 'EEXIST'
  | 'EIO'
  | 'ENOMEM'
  | 'ENOSPC'
  | 'EOPNOTSUPP'
  | 'ERANGE'
  | 'ETIMEDOUT'
  | 'E_TRACE_FORMAT'
  | 'E_TRACE_DIVERGED'
  | 'E_PROFILE'
  | 'E_VERSION'
  | 'E_MISSING'
  | 'E_USAGE';

/** A value of an error's facts; numbers are shown in hexadecimal. */
export type Fact = number | bigint | string | boolean;
/** Named values an error carries. */
export type Facts = Readonly<Record<string, Fact>>;

/** Numbers as this field writes them: hexadecimal, with the prefix. */
export function hex(value: Fact): string {
  if (typeof value === 'bigint') return `0x${value.toString(16)}`;
  if (typeof value !== 'number') return String(value);
  return Number.isInteger(value) && value >= 0 ? `0x${value.toString(16)}` : String(value);
}

/** The one error class of the package. `code` is for programs, `message` for readers, `at` for both. */
export class ViommuError extends Error {
  /** Always `ViommuError`: for `error.name` in logs. */
  override readonly name = 'ViommuError';
  /** What went wrong, for programs to compare. */
  readonly code: Code;
  /** Who can act on it. Guest mistakes are never thrown out of a device. */
  readonly blame: Blame;
  /** Where it went wrong: registers, addresses, ids by name. */
  readonly at: Facts;

  /**
   * @param what one sentence without the facts. @param at facts, appended to the message. @param cause what it began
   * with.
   */
  constructor(code: Code, blame: Blame, what: string, at: Facts = {}, cause?: unknown) {
    const where = Object.entries(at).map(([k, v]) => `${k}=${hex(v)}`);
    super(
      [what, ...(where.length === 0 ? [] : [`(${where.join(' ')})`])].join(' '),
      cause === undefined ? {} : { cause },
    );
    this.code = code;
    this.blame = blame;
    this.at = at;
  }
}
