import { ViommuError } from '../../src/core/errors.ts';
import type { Heard, MakeReplayTarget, OpenTrace, ReplayOptions, ReplayTarget } from '../../src/trace/index.ts';

/**
 * The machine of a recording.
 * @throws ViommuError with the file's name, whatever kept the machine from being built.
 */
export function build(trace: OpenTrace, make: MakeReplayTarget, options: ReplayOptions, heard: Heard): ReplayTarget {
  return built(trace.file, () => make(trace.header, options, heard.tell));
}

/** What `make` makes of the header of the recording `file`. @throws ViommuError that names it, whatever kept it from being made. */
export function built<T>(file: string, make: () => T): T {
  try {
    return make();
  } catch (cause) {
    const what = cause instanceof Error ? cause.message : String(cause);
    if (cause instanceof ViommuError)
      throw new ViommuError(cause.code, cause.blame, `${file}: header: ${what}`, {}, cause);
    throw new ViommuError('ENOMEM', 'host', `${file}: header: the machine cannot be built: ${what}`, {}, cause);
  }
}

/** What went wrong, with the file and the event it went wrong at. */
export function located(file: string, i: number, cause: unknown): ViommuError {
  const what = cause instanceof Error ? cause.message : String(cause);
  const where = what.startsWith('event ') ? file : `${file}: event ${i}`;
  if (cause instanceof ViommuError) return new ViommuError(cause.code, cause.blame, `${where}: ${what}`, {}, cause);
  return new ViommuError('EIO', 'host', `${where}: the machine failed: ${what}`, {}, cause);
}
