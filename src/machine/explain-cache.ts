import type { CachedTranslation } from '../lib/cache/listing.ts';
import { ACCESS } from '../ports/dma.ts';
import type { VmMemory } from './vm-memory.ts';

function bytes(shift: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  return `${2 ** (shift % 10)} ${units[Math.floor(shift / 10)]}`;
}

/** What a listing of cached translations is made of. */
export interface CacheListing {
  readonly list: readonly CachedTranslation[];
  /** What the architecture calls the two halves of a context: the domain, and the address space in it. */
  readonly domain: string;
  readonly id: string;
  /** Says where the guest has a host-physical address. */
  readonly memory: VmMemory;
  /** Most lines of each context. */
  readonly limit: number;
}

/** The hardware's cached translations as lines of a listing. Outputs are shown as the guest knows them. */
export function cachedLines({ list, domain, id, memory, limit }: CacheListing): string[] {
  const lines = ['', `Cached translations (${list.length}; ${domain}s are the hardware's)`];
  let shown = 0;
  let last = '';
  for (const c of list) {
    const context = `${domain} ${c.domain}${c.id < 0 ? '' : `, ${id} ${c.id}`}`;
    if (context !== last) {
      lines.push(`  ${context}`);
      last = context;
      shown = 0;
    }
    if (shown++ === limit) lines.push('    and more (--all shows them)');
    if (shown > limit) continue;
    const gpa = memory.gpaOf(c.out);
    const rights = (c.perm & ACCESS.READ ? 'r' : '') + (c.perm & ACCESS.WRITE ? 'w' : '');
    lines.push(`    0x${c.input.toString(16)} (${bytes(c.shift)}) -> 0x${gpa.toString(16)} ${rights}`);
  }
  return lines;
}
