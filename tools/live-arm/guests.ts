import { join } from 'node:path';
import { packageFolder } from '../package-folder.ts';

/** A bare-metal guest of guest-fixtures/aarch64. */
export interface GuestImage {
  readonly name: string;
  readonly shows: string;
  /** QEMU's SMMU has what it uses: it is recorded there, and runs there for comparison. */
  readonly onQemu: boolean;
}

export const GUESTS: readonly GuestImage[] = [
  {
    name: 'queue-wrap',
    shows: 'a bare-metal guest wraps a four-entry command queue, meets CERROR_ILL, mends the command and goes on',
    onQemu: true,
  },
  {
    name: 'two-level',
    shows: 'a bare-metal guest grows a two-level stream table; streams without a table are refused',
    onQemu: true,
  },
  {
    name: 'faults',
    shows: 'a bare-metal guest causes every fault of descriptors and page tables, and overflows the event queue',
    onQemu: true,
  },
  {
    name: 'range',
    shows: 'a bare-metal guest invalidates by page, range, all ASIDs and ASID; what is named is gone',
    onQemu: true,
  },
  { name: 'arch-sync-msi', shows: 'CMD_SYNC, event queue and global error by message', onQemu: false },
  { name: 'arch-overflow', shows: 'event-queue overflow with OVFLG and its acknowledge', onQemu: false },
  { name: 'arch-ssid', shows: 'SubstreamIDs over a two-level CD table', onQemu: false },
  { name: 'arch-stall', shows: 'stalled transactions, resumed and terminated', onQemu: false },
];

/** The committed image of a guest. */
export function imagePath(name: string): string {
  return join(packageFolder(), 'guest-fixtures/aarch64/images', `${name}.elf`);
}
