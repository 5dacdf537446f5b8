import type { PageFile } from '../../../ports/iommufd.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import type { IommufdContext } from '../context.ts';
import { type AccountMode, accountMode, charge, uncharge } from '../ioas/accounting.ts';
import type { Pages, PagesParts } from '../ioas/pages.ts';

/** Whom the process inside the verb pays through. */
export function payer(context: IommufdContext): Pick<PagesParts, 'account' | 'mode'> {
  const account = context.memory.account ?? null;
  return { account, mode: accountMode(account, context.rlimitMode !== 0) };
}

/** Device memory behind a dma-buf is not pinned, so nobody pays for it. */
export function filePayer(context: IommufdContext, file: PageFile): Pick<PagesParts, 'account' | 'mode'> {
  return file.kind === 'dmabuf' ? { account: null, mode: 'none' } : payer(context);
}

/**
 * IOAS_CHANGE_PROCESS: what is pinned counts against the process inside the verb from now on, all of it or nothing.
 * @returns 0; -EOPNOTSUPP reserved field; -EINVAL an area is not backed by a file; -ENOMEM more than the process may lock.
 */
export function changeProcess(context: IommufdContext, reserved: number): number {
  if (reserved !== 0) return -E.OPNOTSUPP;
  const to = context.memory.account ?? null;
  const moving = new Set<Pages>();
  for (const o of context.objects.objects()) {
    if (o.kind !== 'ioas') continue;
    for (const { pages } of o.areas) {
      if (pages.file === null || pages.dmabuf) return -E.INVAL;
      // What counts against no limit stays with the process that pinned it.
      if (pages.mode !== 'none' && pages.account !== to) moving.add(pages);
    }
  }
  const sums = new Map<AccountMode, number>();
  for (const p of moving) sums.set(p.mode, (sums.get(p.mode) ?? 0) + p.pinned);
  const charged: [AccountMode, number][] = [];
  for (const sum of sums) {
    if (!charge(to, ...sum)) {
      for (const done of charged) uncharge(to, ...done);
      return -E.NOMEM;
    }
    charged.push(sum);
  }
  for (const p of moving) {
    uncharge(p.account, p.mode, p.pinned);
    p.moveAccount(to);
  }
  return 0;
}
