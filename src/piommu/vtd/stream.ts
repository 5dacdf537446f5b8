import type { ConfigSlot } from '../../lib/cache/config-cache.ts';
import type { TlbContext } from '../../lib/cache/tags.ts';
import { VtdContext, VtdRegime } from '../../lib/walk/vtd-regime.ts';

/** No tags yet: ask the IOTLB for them. */
export const UNTAGGED: TlbContext = { domain: 0, id: 0, tag: 0, sizes: 0, walks: 0, split: 0 };

/** A cached context entry; `keyA` is the requester id. */
export interface VtdHwContext extends ConfigSlot {
  readonly context: VtdContext;
}

/**
 * A cached PASID entry (or what a legacy context entry translates with), and where its translations are cached; `keyA` is
 * the requester id, `keyB` the PASID as requested, NO_PASID included.
 */
export interface VtdHwStream extends ConfigSlot {
  /** The context cache was like this when the slot was last checked against it; -1: not yet. */
  stamp: number;
  /** The directory the entry came from; -1 in legacy mode. */
  directory: number;
  readonly regime: VtdRegime;
  /** Requests without PASID are privileged (RID_PRIV). */
  priv: boolean;
  tags: TlbContext;
  /** The second stage's own: the same as `tags` unless a first stage takes part. */
  secondTags: TlbContext;
}

const unused = () => ({ keyA: -1, keyB: -1, generation: -1 });

export function vtdHwContext(): VtdHwContext {
  return { ...unused(), context: new VtdContext() };
}

export function vtdHwStream(): VtdHwStream {
  return {
    ...unused(),
    stamp: -1,
    directory: -1,
    regime: new VtdRegime(),
    priv: false,
    tags: UNTAGGED,
    secondTags: UNTAGGED,
  };
}

/** What a legacy context entry translates with becomes the slot's. */
export function takeLegacy(from: VtdRegime, to: VtdRegime): void {
  to.pgtt = from.pgtt;
  to.scalable = from.scalable;
  to.secondRoot = from.secondRoot;
  to.secondLevels = from.secondLevels;
  to.ssade = false;
  to.did = from.did;
  to.sre = from.sre;
  to.pgsnp = from.pgsnp;
  to.fpd = from.fpd;
  to.pasid = 0;
}
