import type { IoasIovaRange, IommufdOption, VfioIoas } from '../../../ports/iommufd.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { OPTION, OPTION_OP, VFIO_IOAS_OP } from '../../../spec/iommufd/uapi.ts';
import type { IommufdContext, Respond } from '../context.ts';
import { Ioas } from '../ioas/ioas.ts';
import { type IovaRange, insertDisjoint } from '../ioas/ranges.ts';

/** An IOAS, its id reserved but not published; null: ENOMEM. */
export function newIoas(context: IommufdContext): Ioas | null {
  const id = context.objects.reserve();
  if (id === 0) return null;
  const ioas = new Ioas(context.kernel.memory, (gone) => {
    if (context.vfioIoas === gone) context.vfioIoas = null;
  });
  ioas.id = id;
  return ioas;
}

/** Reads entry `i` of the user's array of ranges; null: EFAULT. */
export type ReadRange = (i: number) => IoasIovaRange | null;

export function allowIovas(
  context: IommufdContext,
  ioasId: number,
  reserved: number,
  count: number,
  read: ReadRange,
): number {
  if (reserved !== 0) return -E.OPNOTSUPP;
  const ioas = context.objects.get(ioasId, 'ioas');
  if (ioas === null) return -E.NOENT;
  const list: IovaRange[] = [];
  for (let i = 0; i < count; i++) {
    const r = read(i);
    if (r === null) return -E.FAULT;
    if (r.start >= r.last || !insertDisjoint(list, r)) return -E.INVAL;
  }
  return ioas.allow(list);
}

export function option(context: IommufdContext, c: IommufdOption, respond: Respond): number {
  if (c.reserved !== 0) return -E.OPNOTSUPP;
  const r =
    c.optionId === OPTION.RLIMIT_MODE
      ? rlimitMode(context, c)
      : c.optionId === OPTION.HUGE_PAGES
        ? hugePages(context, c)
        : -E.OPNOTSUPP;
  if (r !== 0) return r;
  return respond() ? 0 : -E.FAULT;
}

function rlimitMode(context: IommufdContext, c: IommufdOption): number {
  if (c.objectId !== 0) return -E.OPNOTSUPP;
  if (c.op === OPTION_OP.GET) {
    c.val64 = BigInt(context.rlimitMode);
    return 0;
  }
  if (c.op !== OPTION_OP.SET) return -E.OPNOTSUPP;
  if (!context.privileged) return -E.PERM;
  if (!context.objects.empty) return -E.BUSY;
  if (c.val64 > 1n) return -E.INVAL;
  context.rlimitMode = Number(c.val64);
  return 0;
}

function hugePages(context: IommufdContext, c: IommufdOption): number {
  const ioas = context.objects.get(c.objectId, 'ioas');
  if (ioas === null) return -E.NOENT;
  if (c.op === OPTION_OP.GET) {
    c.val64 = ioas.largePages ? 1n : 0n;
    return 0;
  }
  if (c.op !== OPTION_OP.SET) return -E.OPNOTSUPP;
  if (c.val64 === 0n) return ioas.disableLargePages();
  if (c.val64 !== 1n) return -E.INVAL;
  ioas.enableLargePages();
  return 0;
}

export function vfioIoas(context: IommufdContext, c: VfioIoas, respond: Respond): number {
  if (c.reserved !== 0) return -E.OPNOTSUPP;
  switch (c.op) {
    case VFIO_IOAS_OP.GET:
      if (context.vfioIoas === null) return -E.NODEV;
      c.ioasId = context.vfioIoas.id;
      return respond() ? 0 : -E.FAULT;
    case VFIO_IOAS_OP.SET: {
      const ioas = context.objects.get(c.ioasId, 'ioas');
      if (ioas === null) return -E.NOENT;
      context.vfioIoas = ioas;
      return 0;
    }
    case VFIO_IOAS_OP.CLEAR:
      context.vfioIoas = null;
      return 0;
    default:
      return -E.OPNOTSUPP;
  }
}
