import { closeSync, openSync, readSync } from 'node:fs';

/** Bytes of /proc/PID/maps that are read at once, and in all. */
const PIECE = 65536;
const MOST = 16 << 20;

/**
 * Whether an address of a process lies in memory that is its own: private, and of no file. Whatever is there, the process has
 * written itself; another one could have written to a page that is shared, or to a file behind a page.
 *
 * @param maps path of its /proc/PID/maps.
 */
export function isPrivate(maps: string, address: number): boolean {
  let fd = -1;
  try {
    fd = openSync(maps, 'r');
    const piece = Buffer.alloc(PIECE);
    let rest = '';
    for (let done = 0; done < MOST; ) {
      const n = readSync(fd, piece, 0, PIECE, null);
      if (n === 0) break;
      done += n;
      const lines = (rest + piece.toString('latin1', 0, n)).split('\n');
      rest = lines.pop()!;
      for (const line of lines) {
        const m = /^([0-9a-f]+)-([0-9a-f]+) (....) [0-9a-f]+ \S+ (\d+)/.exec(line);
        if (m === null || address >= Number.parseInt(m[2]!, 16)) continue;
        return address >= Number.parseInt(m[1]!, 16) && m[3]!.endsWith('p') && m[4] === '0';
      }
    }
  } catch {
    // No such process, or not to be looked at.
  } finally {
    if (fd >= 0) closeSync(fd);
  }
  return false;
}
