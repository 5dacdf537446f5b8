import { readFileSync } from 'node:fs';

/** A mapping of a process, as /proc/PID/maps shows it. */
export interface Vma {
  readonly start: bigint;
  readonly end: bigint;
  readonly readable: boolean;
  readonly writable: boolean;
  readonly shared: boolean;
  /** Device and inode of what is mapped; inode 0: anonymous. */
  readonly file: string;
  readonly inode: bigint;
  /** Offset in the file. */
  readonly offset: bigint;
}

const LINE = /^([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+)/;

/** The mappings of a process in ascending order; empty when it is gone. */
export function readMaps(pid: number): Vma[] {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/maps`, 'latin1');
  } catch {
    return [];
  }
  const out: Vma[] = [];
  for (const line of text.split('\n')) {
    const m = LINE.exec(line);
    if (m === null) continue;
    const flags = m[3]!;
    out.push({
      start: BigInt(`0x${m[1]}`),
      end: BigInt(`0x${m[2]}`),
      readable: flags[0] === 'r',
      writable: flags[1] === 'w',
      shared: flags[3] === 's',
      file: `${m[5]}:${m[6]}`,
      inode: BigInt(m[6]!),
      offset: BigInt(`0x${m[4]}`),
    });
  }
  return out;
}

export function vmaAt(maps: readonly Vma[], va: bigint): Vma | null {
  let lo = 0;
  let hi = maps.length;
  while (lo < hi) {
    const mid = (lo + hi) >>> 1;
    if (maps[mid]!.end <= va) lo = mid + 1;
    else hi = mid;
  }
  const v = maps[lo];
  return v !== undefined && v.start <= va ? v : null;
}

/** Whether every byte of [va, va + bytes) may be read, or written. */
export function permits(maps: readonly Vma[], va: bigint, bytes: number, write: boolean): boolean {
  const end = va + BigInt(bytes);
  for (let at = va; at < end; ) {
    const v = vmaAt(maps, at);
    if (v === null || !(write ? v.writable : v.readable)) return false;
    at = v.end;
  }
  return true;
}

/** The mappings of processes as one request sees them: read once, forgotten with `clear`. */
export class MapsCache {
  readonly #maps = new Map<number, Vma[]>();

  of(pid: number): readonly Vma[] {
    let m = this.#maps.get(pid);
    if (m === undefined) {
      m = readMaps(pid);
      this.#maps.set(pid, m);
    }
    return m;
  }

  clear(): void {
    if (this.#maps.size > 0) this.#maps.clear();
  }
}
