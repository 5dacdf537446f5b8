import { describe, expect, test } from 'vitest';
import { Ledger, readStage, stagesOf } from './ledger.ts';
import { RECORDINGS, replay, type VtdReplayMachine } from './replayed.ts';

test.each(RECORDINGS)('the guest of %s sees and does what it saw and did on QEMU', async (name) => {
  const r = await replay(name);
  expect(r.differences).toEqual([]);
  expect(r.ok).toBe(true);
  expect(r.columns.translations.total).toBeGreaterThan(100);
});

test.each(['tiny', 'off'] as const)(
  'no answer depends on what the hardware happens to cache (caches %s)',
  async (caches) => {
    for (const name of ['vtd-legacy', 'vtd-scalable-first-ats', 'vtd-faults-legacy']) {
      expect([name, (await replay(name, { caches })).ok]).toEqual([name, true]);
    }
  },
);

test('a machine whose hardware swallows invalidations diverges on the guest that re-uses addresses', async () => {
  const r = await replay('vtd-legacy-strict-heavy', { ignoreInvalidations: true });
  expect(r.ok).toBe(false);
  expect(r.differences[0]!.column).toBe('translations');
});

describe('every host operation of a recorded first-stage guest has its reason', () => {
  const devices = 11;
  /** Functions of the guest that did DMA or were probed by the workload. */
  const used = 6;
  const first = {
    IOAS_ALLOC: 1, // guest memory
    IOAS_MAP: 3, // its one region, and the address space before and behind the interrupt range
    BIND: devices,
    GET_HW_INFO: devices, // how many PASIDs the function has
    HWPT_ALLOC: 1 + used, // the nest parent, and one guest page table per function that was used
    // power-on and, for those not used, shutdown: guest RAM; first uses: their table
    ATTACH: devices + used + (devices - 4),
    // TE=1 leaves every stream to be configured; two drivers left before shutdown, their entries were cleared
    DETACH: devices + 2,
    REPLACE: 4, // shutdown: table → guest RAM
    DESTROY: used,
  };

  test('scalable-first-ats, strict: 1288 of the 1290 PASID-IOTLB descriptors name an attached table, one call each', async () => {
    const r = await replay('vtd-scalable-first-ats');
    expect(r.commands.get('p-iotlb')).toBe(1290);
    // The two others follow the PASID-cache invalidation that already took their tables away.
    expect(Object.fromEntries(r.hostOps)).toEqual({ ...first, HWPT_INVALIDATE: 1288 });
    expect(r.commands.get('pasid-cache')).toBe(2);
  });

  test('svm-pasid: the same guest, lazy: 297 flushes', async () => {
    const r = await replay('vtd-svm-pasid');
    expect(Object.fromEntries(r.hostOps)).toEqual({ ...first, HWPT_INVALIDATE: 297 });
  });

  test('scalable-first-caching: every function is captured when its entry is announced, used or not', async () => {
    const r = await replay('vtd-scalable-first-caching');
    const ops = Object.fromEntries(r.hostOps);
    expect([ops.HWPT_ALLOC, ops.DESTROY, ops.IOAS_ALLOC]).toEqual([1 + devices, devices, 1]);
  });

  test('scalable-passthrough: functions in pass-through share the one parent; only a VFIO user’s domain is a shadow', async () => {
    const ops = Object.fromEntries((await replay('vtd-scalable-passthrough')).hostOps);
    expect([ops.HWPT_ALLOC, ops.IOAS_ALLOC, ops.HWPT_INVALIDATE]).toEqual([2, 2, undefined]);
  });
});

function ledgerOf(machine: VtdReplayMachine, ledgers: Map<VtdReplayMachine, Ledger>): Ledger {
  const l = ledgers.get(machine) ?? new Ledger();
  ledgers.set(machine, l);
  return l;
}
const inRam = (m: VtdReplayMachine) => (page: number) => m.vm.memory.roomAt(page * 4096) > 0;

test('caching mode: at every wait the shadow holds exactly what the guest’s tables say', async () => {
  const ledgers = new Map<VtdReplayMachine, Ledger>();
  let waits = 0;
  let pages = 0;
  await replay('vtd-caching-mode', {}, (said, machine) => {
    const ledger = ledgerOf(machine, ledgers);
    ledger.hear(said);
    if (said.what !== 'command' || said.name !== 'wait') return;
    waits++;
    for (const s of stagesOf(machine)) {
      const want = readStage(machine.vm.memory.guest, s, inRam(machine));
      const got = ledger.tables.get(s.hwptId) ?? new Map();
      pages += want.size;
      const same = got.size === want.size && [...want].every(([p, v]) => got.get(p)!.gpa === v >> 2);
      const perms = same && [...want].every(([p, v]) => got.get(p)!.perm === (v & 3));
      if (!same || !perms)
        expect([waits, s.did, [...got.keys()], got.size]).toEqual([waits, s.did, [...want.keys()], want.size]);
    }
  });
  expect([waits, pages > 10_000]).toEqual([2658, true]);
});

test.each(['vtd-legacy', 'vtd-scalable-second', 'vtd-faults-legacy', 'vtd-xen-register-invalidation'])(
  '%s: a page enters the shadow as the tables have it, and leaves when it is named: tables now + what is not invalidated yet',
  async (name) => {
    const ledgers = new Map<VtdReplayMachine, Ledger>();
    let mapped = 0;
    let named = 0;
    await replay(name, {}, (said, machine) => {
      const ledger = ledgerOf(machine, ledgers);
      ledger.hear(said);
      if (said.what === 'host' && said.verb === 'SHADOW_MAP' && said.result === 0) {
        const a = said.args as Record<string, number>;
        const s = stagesOf(machine).find((x) => x.hwptId === a.hwpt);
        if (s === undefined) return;
        const page = a.page!;
        const leaf = leafAt(machine, s, page);
        expect([page, ledger.tables.get(s.hwptId)!.get(page)!.gpa]).toEqual([page, leaf]);
        mapped++;
      } else if (said.what === 'command' && said.name === 'iotlb') {
        const w0 = said.words[0]!;
        const g = (w0 >>> 4) & 3;
        const first = (said.words[3]! >>> 0) * 0x10_0000 + (said.words[2]! >>> 12);
        const n = 2 ** (said.words[2]! & 0x3f);
        const from = first - (first % n);
        for (const s of stagesOf(machine)) {
          if (g !== 1 && s.did !== w0 >>> 16) continue;
          for (const p of ledger.tables.get(s.hwptId)?.keys() ?? []) {
            if (g !== 3 || (p >= from && p < from + n)) expect(`page ${p} survives`).toBe('');
          }
          named++;
        }
      }
    });
    expect(mapped).toBeGreaterThan(100);
    if (name !== 'vtd-xen-register-invalidation') expect(named).toBeGreaterThan(50);
  },
);

/** The output page of one input page, read straight from the guest's tables. */
function leafAt(machine: VtdReplayMachine, s: { root: number; levels: number }, page: number): number {
  const memory = machine.vm.memory.guest;
  let table = s.root;
  for (let level = s.levels; ; level--) {
    const span = 512 ** (level - 1);
    memory.load64(table + 8 * (Math.floor(page / span) % 512));
    const address = (memory.hi & 0xf_ffff) * 2 ** 32 + ((memory.lo & ~0xfff) >>> 0);
    if (level === 1 || (memory.lo & 0x80) !== 0) return Math.floor(address / 4096 / span) * span + (page % span);
    table = address;
  }
}
