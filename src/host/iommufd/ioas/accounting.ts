import type { PinAccount } from '../../../ports/iommufd.ts';

/**
 * What pinned pages count against (`IOPT_PAGES_ACCOUNT_…`). `none`: nothing, the process has CAP_IPC_LOCK. `user`: the limit of
 * the process holds for what all processes of its user have locked. `mm`: it holds for the process alone, as with VFIO.
 */
export type AccountMode = 'none' | 'user' | 'mm';

/** The mode for what a process maps now. @param perProcess OPTION RLIMIT_MODE. */
export function accountMode(account: PinAccount | null, perProcess: boolean): AccountMode {
  if (account === null || account.unlimited) return 'none';
  return perProcess ? 'mm' : 'user';
}

/** Counts `pages` more. @returns false: the limit would be exceeded (ENOMEM), and nothing is counted. */
export function charge(account: PinAccount | null, mode: AccountMode, pages: number): boolean {
  if (account === null) return true;
  const locked = counter(account, mode);
  if (locked !== null) {
    if (locked.locked + pages > account.limit) return false;
    locked.locked += pages;
  }
  account.pinned += pages;
  return true;
}

/** Takes back what `charge` counted. */
export function uncharge(account: PinAccount | null, mode: AccountMode, pages: number): void {
  if (account === null) return;
  const locked = counter(account, mode);
  if (locked !== null) locked.locked -= pages;
  account.pinned -= pages;
}

function counter(account: PinAccount, mode: AccountMode): { locked: number } | null {
  return mode === 'none' ? null : mode === 'user' ? account.user : account;
}
