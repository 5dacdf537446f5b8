import type { KernelFile } from '../../host/ioctl/caller.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { Afterwards } from './afterwards.ts';
import type { Connection } from './connection.ts';
import { FRAME } from './frames.ts';
import { MAX_READ } from './limits.ts';
import { returned } from './request-run.ts';

/**
 * pread(2) or pwrite(2) of a file. A device does as much at once as one access may cost, and others are served before it goes
 * on with the rest: the program sees one read. @returns false: the frame is broken.
 */
export function transfer(
  c: Connection,
  file: KernelFile,
  type: typeof FRAME.PREAD | typeof FRAME.PWRITE,
  payload: Buffer,
  afterwards: Afterwards,
): boolean {
  const read = type === FRAME.PREAD;
  if (read ? payload.length !== 12 : payload.length < 8) return false;
  const offset = payload.readBigUInt64LE(0);
  const bytes = read ? new Uint8Array(Math.min(payload.readUInt32LE(8), MAX_READ)) : payload.subarray(8);
  let done = 0;
  const goOn = (): void => {
    if (!c.alive) return;
    const at = offset + BigInt(done);
    const rest = bytes.subarray(done);
    const r = (read ? file.pread?.(at, rest) : file.pwrite?.(at, rest)) ?? -E.SPIPE;
    if (r > 0) done += r;
    if (r > 0 && done < bytes.length) {
      c.goesOn();
      afterwards.later(() => {
        try {
          goOn();
        } catch (e) {
          c.destroy();
          throw e;
        }
      });
      return;
    }
    c.answer(returned(done > 0 ? done : r, read ? bytes.subarray(0, done) : undefined));
  };
  goOn();
  return true;
}
