import { describe, expect, test } from 'vitest';
import { RECORDINGS, replay } from './replayed.ts';

test.each(RECORDINGS)('the guest of %s sees and does what it saw and did on QEMU', async (name) => {
  const r = await replay(name);
  expect(r.differences).toEqual([]);
  expect(r.ok).toBe(true);
  expect(r.columns.translations.total).toBeGreaterThan(100);
});

test('a machine whose hardware swallows invalidations diverges on the guest that re-uses addresses', async () => {
  const r = await replay('smmuv3-strict-heavy', { ignoreInvalidations: true });
  expect(r.ok).toBe(false);
  expect(r.differences[0]!.column).toBe('translations');
});

/** What the host was asked, under the verbs' names. */
async function operations(name: string): Promise<Record<string, number>> {
  return Object.fromEntries((await replay(name)).hostOps);
}

describe('every host operation of a recorded guest has its reason', () => {
  const devices = 6;
  const start = {
    IOAS_ALLOC: 1, // guest memory
    IOAS_MAP: 4, // its one region, and the address space before, between and behind it and the doorbell
    BIND: devices,
    GET_HW_INFO: devices, // can the physical SMMU do what the guest is shown?
    VIOMMU_ALLOC: 1, // the guest uses one VMID
    VDEVICE_ALLOC: devices, // at CFGI_ALL of the driver's reset, before anything translates
  };
  /** Linux gives each device its CD table, so no two share a context. */
  const translated = {
    // nest parent, bypass (power-on), abort (the driver's first CFGI_STE finds an aborting entry), a context per device
    HWPT_ALLOC: 3 + devices,
    // power-on bypass; then, unset by SMMUEN=1, the aborting entry
    ATTACH: 2 * devices,
    DETACH: devices, // SMMUEN=1 leaves every stream to be configured
    // abort → context; and at shutdown SMMUEN=0, context → bypass
    REPLACE: 2 * devices,
    DESTROY: devices, // the contexts, at shutdown
  };

  test('boot: twelve CFGI_CD, seventeen TLBI and one NSNH_ALL each reach the kernel in a call of their own', async () => {
    // Linux synchronises after each of them, so no two are ever in one batch.
    expect(await operations('smmuv3-boot')).toEqual({ ...start, ...translated, HWPT_INVALIDATE: 12 + 17 + 1 });
  });

  test('strict-heavy: 3424 unmaps are 3424 calls and not one object more', async () => {
    expect(await operations('smmuv3-strict-heavy')).toEqual({
      ...start,
      ...translated,
      HWPT_INVALIDATE: 12 + 3424 + 1,
    });
  });

  test('lazy-heavy: 230 flushes of a whole ASID', async () => {
    expect(await operations('smmuv3-lazy-heavy')).toEqual({ ...start, ...translated, HWPT_INVALIDATE: 12 + 230 + 1 });
  });

  test('passthrough: every entry says bypass, which one HWPT does for all, before and after SMMUEN', async () => {
    expect(await operations('smmuv3-passthrough')).toEqual({
      ...start,
      HWPT_ALLOC: 2, // nest parent, bypass
      ATTACH: 2 * devices,
      DETACH: devices,
      HWPT_INVALIDATE: 1, // NSNH_ALL of the driver's reset; nothing else is cached
    });
  });

  test('stage2only: the shadows of ten guest stage 2s come and go, and take every invalidation themselves', async () => {
    const r = await replay('smmuv3-stage2only');
    const ops = Object.fromEntries(r.hostOps);
    const shadows = 10;
    expect(ops.IOAS_ALLOC).toBe(1 + shadows);
    // nest parent, bypass, abort of the home vIOMMU; one nest parent per shadow
    expect(ops.HWPT_ALLOC).toBe(3 + shadows);
    expect(ops.VIOMMU_ALLOC).toBe(1);
    expect(ops.HWPT_INVALIDATE, 'NSNH_ALL only: the guest owns the stage 2').toBe(1);
    expect(ops.DESTROY, 'the IOAS and the HWPT of each').toBe(2 * shadows);
    // Areas are guest RAM, and the doorbell in the shadows that send interrupts; pages of RAM are entries of tables.
    expect(ops.IOAS_MAP).toBeLessThan(3 * shadows);
    expect(ops.SHADOW_MAP).toBeGreaterThan(10 * ops.IOAS_MAP!);
  });
});
