import { ViommuError } from '../../src/core/errors.ts';
import type { IommuKind } from '../../src/trace/index.ts';
import { BOARD_WINDOW, type Imported, type ImportedEvent, WINDOW_BYTES } from './imported.ts';
import { checkCount, logLines } from './log-lines.ts';

const LINE = /^(\S+)\s+([rw])\s+(0x[0-9a-fA-F]+|\d+)\s+([1248])\s+(0x[0-9a-fA-F]+|\d+)$/;

/**
 * Reads register accesses as plain lines, `TIME r|w ADDRESS SIZE VALUE`: numbers in decimal or with 0x, `#` begins a comment. An
 * address is guest-physical, or an offset in the window when it lies below its size. Times give the order and are not kept.
 * @param base where the window lies (bytes).
 * @throws ViommuError `E_MISSING`, `E_TRACE_FORMAT` naming the line.
 */
export async function importMmio(
  path: string,
  iommu: IommuKind,
  base: number = BOARD_WINDOW[iommu],
): Promise<Imported> {
  const events: ImportedEvent[] = [];
  let n = 0;
  const wrong = (what: string) => new ViommuError('E_TRACE_FORMAT', 'trace', `${path}: line ${n}: ${what}`);
  for await (const raw of logLines(path)) {
    n++;
    const line = raw.replace(/#.*/, '').trim();
    if (line === '') continue;
    const m = line.match(LINE);
    if (m === null) throw wrong(`expected "TIME r|w ADDRESS SIZE VALUE", found "${line.slice(0, 80)}"`);
    const address = Number(m[3]);
    const size = Number(m[4]);
    const off = address < WINDOW_BYTES[iommu] ? address : address - base;
    if (off < 0 || off + size > WINDOW_BYTES[iommu])
      throw wrong(`0x${address.toString(16)} is not in the window at 0x${base.toString(16)}: say --base ADDRESS`);
    if (off % size !== 0)
      throw wrong(`expected an address that is a multiple of ${size}, found 0x${address.toString(16)}`);
    const value = BigInt(m[5]!);
    if (value >> BigInt(8 * size) !== 0n)
      throw wrong(`expected a value of ${size} bytes, found 0x${value.toString(16)}`);
    events.push({ t: m[2]!, off: `0x${off.toString(16)}`, size, val: `0x${value.toString(16)}` });
    checkCount(path, events.length);
  }
  if (events.length === 0)
    throw new ViommuError(
      'E_TRACE_FORMAT',
      'trace',
      `${path}: no access in it: expected lines "TIME r|w ADDRESS SIZE VALUE"`,
    );
  const unknown = ['guest memory: neither tables nor commands', 'DMA accesses, faults and interrupts'];
  return { iommu, events, skipped: new Map(), unknown };
}
