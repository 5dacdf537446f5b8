import type { IommufdFile } from '../../../src/host/iommufd/file.ts';
import type { Ioas } from '../../../src/host/iommufd/ioas/ioas.ts';
import type { Pages } from '../../../src/host/iommufd/ioas/pages.ts';
import type { KernelDevice } from '../../../src/host/kernel/device.ts';
import type { HostMemory } from '../../../src/lib/memory/host-memory.ts';
import type { UserMemory } from '../../../src/ports/iommufd.ts';

const PAGE = 4096;

/** A process whose page at VA v lies at a fixed host-physical place, in runs of a few pages. Counts what is pinned. */
export class CountingMemory implements UserMemory {
  hpa = 0;
  run = 0;
  readonly pins = new Map<number, number>();
  readonly #base: number;
  readonly #longest: number;

  constructor(base = 2 ** 42, longest = 0x3000) {
    this.#base = base;
    this.#longest = longest;
  }

  pin(va: bigint, bytes: bigint): boolean {
    // A hole behind each run, so that nothing can be joined to large blocks.
    const at = Number(va);
    this.hpa = this.#base + Math.floor(at / this.#longest) * 2 * this.#longest + (at % this.#longest);
    this.run = Math.min(Number(bytes), this.#longest - (at % this.#longest));
    for (let b = 0; b < this.run; b += PAGE) this.#count(this.hpa + b, 1);
    return true;
  }
  unpin(hpa: number, bytes: number): void {
    for (let b = 0; b < bytes; b += PAGE) this.#count(hpa + b, -1);
  }
  #count(hpa: number, by: number): void {
    const n = (this.pins.get(hpa) ?? 0) + by;
    if (n < 0) throw new Error('unpinned more often than pinned');
    if (n === 0) this.pins.delete(hpa);
    else this.pins.set(hpa, n);
  }
}

function pinned(pages: Pages): unknown {
  const runs: unknown[] = [];
  for (let page = 0; page < pages.count; page++) runs.push(pages.pinsOf(page));
  return runs;
}

function space(ioas: Ioas): unknown {
  return {
    alignment: ioas.alignment,
    large: ioas.largePages,
    domains: ioas.domains.length,
    accesses: ioas.accesses.size,
    ranges: ioas.ranges(),
    allowed: ioas.allowed,
    areas: [...ioas.areas].map((a) => [
      a.start,
      a.last,
      a.prot,
      a.startByte,
      a.filled,
      a.locks,
      a.accesses,
      a.preventAccess,
      pinned(a.pages),
      ioas.domains.map((d) => d.iovaToPhys(a.start)),
    ]),
  };
}

/**
 * Everything that an operation which fails must leave as it was: objects with their references, address spaces, page pins,
 * attachments, ids, doorbells, and the host pages in use.
 */
export function hostState(
  fd: IommufdFile,
  memory: HostMemory,
  process: CountingMemory,
  devices: readonly KernelDevice[],
): string {
  const { context } = fd;
  const { objects } = context;
  const domains = new Map<object, string>();
  const seen: unknown[] = [];
  for (const o of objects.objects()) {
    const more =
      o.kind === 'ioas'
        ? space(o)
        : o.kind === 'hwpt_paging'
          ? [o.auto, o.ioas.id, [...o.doorbells], o.fault?.id]
          : o.kind === 'hwpt_nested'
            ? [o.parent.id, o.viommu?.id, o.fault?.id]
            : o.kind === 'device'
              ? [o.dev.name, o.vdevice?.id, [...o.group.attachments].map(([p, a]) => [p, a.hwpt.id, a.devices.size])]
              : o.kind === 'viommu'
                ? [o.veventqs.length, [...o.hwQueues.keys()]]
                : null;
    if (o.kind === 'hwpt_paging' || o.kind === 'hwpt_nested') domains.set(o.domain, `${o.kind} ${o.id}`);
    seen.push([o.id, o.kind, o.users, more]);
  }
  const next = objects.reserve();
  objects.release(next);
  const groups = devices.map((d) => [
    d.name,
    d.devId,
    domains.get(d.group.domain) ?? d.group.domain.kind,
    [...d.group.pasids].map(([pasid, domain]) => [pasid, domains.get(domain) ?? domain.kind]),
    d.group.ownerCount,
    d.group.devices.length,
  ]);
  const state = {
    seen,
    next,
    groups,
    contextGroups: context.groups.size,
    automatic: [...context.automatic].map(([io, set]) => [io.id, [...set].map((h) => h.id)]),
    doorbells: context.doorbells,
    vfioIoas: context.vfioIoas?.id,
    rlimitMode: context.rlimitMode,
    pages: memory.pagesUsed,
    pins: [...process.pins].sort(([a], [b]) => a - b),
  };
  return JSON.stringify(state, (_k, v: unknown) => (typeof v === 'bigint' ? `0x${v.toString(16)}` : v), 1);
}
