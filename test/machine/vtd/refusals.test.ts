import { describe, expect, test } from 'vitest';
import { FaultyHw } from '../../../src/lib/inject/faulty-hw.ts';
import type { ProfileName } from '../../../src/lib/profile/profile.ts';
import { ACCESS, NO_PASID } from '../../../src/ports/dma.ts';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { FAULT } from '../../../src/spec/vtd/faults.ts';
import { IQEI, PAGE } from '../../../src/spec/vtd/registers.ts';
import { wrapShadows } from '../wrap-shadows.ts';
import { FIRST, Rig, SECOND } from './rig.ts';

const RID = 0x10;
const A = 0x100_0000;
const B = 0x101_0000;
const C = 0x102_0000;
const STATUS = 0x60_0000;
/** Where a nested guest's memory lies in its second stage. */
const L1 = 0x1_0000_0000;
const IQE = 0x10;
const PPF = 2;
const VERBS = ['ioasAlloc', 'hwptAlloc', 'ioasMap', 'ioasUnmap', 'invalidate'] as const;
const MODES = ['legacy', 'second', 'first', 'pasid', 'nested'] as const;
type Mode = (typeof MODES)[number];

/** Counts the host's verbs or its unit's commands, and lets the n-th fail. */
class Nth {
  left = 0;
  hits = 0;
  arm(n: number): void {
    this.left = n;
    this.hits = 0;
  }
  now(): boolean {
    if (this.left === 0 || --this.left > 0) return false;
    this.hits++;
    return true;
  }
}

/** A guest with one function that has one page at 0x5000, over a host whose n-th verb or command can fail. */
class Machine {
  readonly rig: Rig;
  readonly nth = new Nth();
  readonly mode: Mode;
  readonly pasid: number;
  readonly tables: { root: number; set(to: number | null): void }[] = [];
  #waits = 0;

  constructor(mode: Mode, profile: ProfileName, what: 'verb' | 'command') {
    this.mode = mode;
    this.pasid = mode === 'pasid' ? 3 : NO_PASID;
    const first = mode === 'first' || mode === 'pasid' || mode === 'nested';
    const props = { profile, scalableMode: mode !== 'legacy', ...(first ? { fsts: true, pasidBits: 8 } : {}) };
    const wrap =
      what === 'command' ? { wrapHw: (hw: ConstructorParameters<typeof FaultyHw>[0]) => this.#faulty(hw) } : {};
    this.rig = new Rig({ props, ...wrap });
    this.rig.plug(RID, 0, { maxPasids: 256, pasidExec: true, pasidPriv: true });
    const second = mode === 'nested' ? this.#inner() : 0;
    for (let i = 0; i < 2; i++) this.tables.push(this.#table(second));
    this.configure(0, second);
    if (what === 'verb') this.#wrapVerbs();
    this.second = second;
  }
  readonly second: number;

  #faulty(hw: ConstructorParameters<typeof FaultyHw>[0]): FaultyHw {
    const faulty = new FaultyHw(hw, { commandWords: 8 });
    faulty.inject({ match: () => this.nth.now(), error: HW_ERROR.ILLEGAL, times: 1e9 });
    return faulty;
  }

  #wrapVerbs(): void {
    const fd = this.rig.vm.iommufd as unknown as Record<string, (...a: unknown[]) => number>;
    for (const name of VERBS) {
      const real = fd[name]!.bind(fd);
      fd[name] = (...a) =>
        this.nth.now() ? -(name.endsWith('lloc') || name === 'ioasMap' ? E.NOMEM : E.IO) : real(...a);
    }
    wrapShadows(this.rig.vm.upcalls, (name, real) =>
      this.nth.now() ? -(name === 'unmap' || name === 'clear' ? E.IO : E.NOMEM) : real(),
    );
    const vfio = this.rig.units[0]!.device.streams[0]!.vfio as unknown as Record<string, (...a: unknown[]) => number>;
    for (const name of ['attach', 'detach']) {
      const real = vfio[name]!.bind(vfio);
      vfio[name] = (...a) => (this.nth.now() ? -E.NOMEM : real(...a));
    }
  }

  /** The second stage of a nested guest: its tables and its pages at L1 + x. */
  #inner(): number {
    const { rig } = this;
    const root = rig.page();
    for (let at = 0x20_0000; at < 0x24_0000; at += 4096) rig.g.map(root, L1 + at, at, 3n, rig.pools[0]!);
    for (const at of [A, B, C]) rig.g.map(root, L1 + at, at, 3n, rig.pools[0]!);
    return root;
  }

  #table(second: number): { root: number; set(to: number | null): void } {
    const { g } = this.rig;
    const offset = second === 0 ? 0 : L1;
    const flags = this.mode === 'legacy' || this.mode === 'second' ? 3n : 7n;
    const [root, l3, l2, l1] = [this.rig.page(), this.rig.page(), this.rig.page(), this.rig.page()];
    // Three levels where the second stage has three.
    g.store(root, BigInt(offset + l3) | flags);
    g.store(l3, BigInt(offset + l2) | flags);
    g.store(l2, BigInt(offset + l1) | flags);
    return { root, set: (to) => g.store(l1 + 40, to === null ? 0n : BigInt(offset + to) | flags) };
  }

  configure(table: number, second = this.second): void {
    const { root } = this.tables[table]!;
    const did = 5 + table;
    if (this.mode === 'legacy') this.rig.legacy(RID, did, root);
    else if (this.mode === 'second') this.rig.scalable(RID, 0, SECOND(did, root));
    else if (this.mode === 'nested')
      this.rig.scalable(RID, 0, [BigInt(second) | 0xc9n, BigInt(did), BigInt(L1 + root)]);
    else this.rig.scalable(RID, this.mode === 'pasid' ? 3 : 0, FIRST(did, root));
  }

  dma(): number | string {
    return this.rig.dma(RID, 0x5000, ACCESS.WRITE, this.pasid);
  }

  /** Fault reason recorded since the last call; 0: none. */
  recorded(): number {
    const { g } = this.rig;
    const at = PAGE.FRCD_LO.at;
    let reason = 0;
    // Under `arch` there are several records, used in turn.
    for (let i = 0; i < 16; i++) {
      const w3 = g.r32(at + 16 * i + 12);
      if (w3 >>> 31 === 0) continue;
      reason = w3 & 0xff;
      g.w32(at + 16 * i + 12, 0x8000_0000);
    }
    return reason;
  }

  /** One access; an aborted one must have been recorded. Then it is tried again. */
  use(expected: number, old: number): void {
    const first = this.dma();
    expect(first).not.toBe(old);
    const reason = this.recorded();
    if (first === 'ABORT') {
      expect(this.nth.hits).toBe(1);
      expect([FAULT.CONTEXT_UNREADABLE, FAULT.PASID_UNREADABLE, FAULT.TABLE_UNREADABLE, FAULT.SS_UNREADABLE]).toContain(
        reason,
      );
      expect(this.dma()).toBe(expected);
    } else expect([first, reason]).toEqual([expected, 0]);
  }

  /** Descriptors with a wait behind: the wait completes, or the guest is told, clears IQE, and then it completes. */
  sync(...descriptors: readonly bigint[][]): void {
    const { g } = this.rig;
    const status = ++this.#waits;
    const bytes = this.mode === 'legacy' ? 16 : 32;
    for (const d of [...descriptors, [0x25n | (BigInt(status) << 32n), BigInt(STATUS)]]) {
      g.store(g.queue + g.tail, ...[...d, 0n, 0n, 0n, 0n].slice(0, bytes / 8));
      g.tail += bytes;
    }
    const from = g.r32(PAGE.IQH.at);
    g.w32(PAGE.IQT.at, g.tail);
    const done = () => Number(g.load(STATUS) & 0xffff_ffffn) === status;
    if (!done()) {
      expect(this.nth.hits).toBe(1);
      expect(g.r32(PAGE.FSTS.at) & IQE).toBe(IQE);
      expect(g.r32(PAGE.IQERCD.at) & 0xf).toBe(IQEI.NONE);
      const head = g.r32(PAGE.IQH.at);
      expect(head).toBeGreaterThanOrEqual(from);
      expect(head).toBeLessThan(g.tail - bytes);
      g.w32(PAGE.FSTS.at, IQE);
      g.w32(PAGE.IQT.at, g.tail);
    }
    expect(done()).toBe(true);
    expect(g.r32(PAGE.FSTS.at) & IQE).toBe(0);
    expect(g.r32(PAGE.IQH.at)).toBe(g.tail);
  }

  pages(did: number): bigint[] {
    if (this.mode === 'legacy' || this.mode === 'second') return [0x32n | (BigInt(did) << 16n), 0x5000n];
    const pasid = this.mode === 'pasid' ? 3n : 0n;
    return [0x36n | (BigInt(did) << 16n) | (pasid << 32n), 0x5000n];
  }

  configurations(did: number): bigint[][] {
    const domain = [0x22n | (BigInt(did) << 16n)];
    return this.mode === 'legacy' ? [[0x31n | (BigInt(RID) << 32n)], domain] : [[0x37n], domain];
  }
}

/** Maps, remaps, changes the table, unmaps, switches off. @returns whether the n-th of something did fail. */
function script(m: Machine, n: number): boolean {
  const { g } = m.rig;
  const [one, two] = m.tables as [Machine['tables'][0], Machine['tables'][0]];
  one.set(A);
  two.set(C);
  g.queueOn(m.mode !== 'legacy');
  m.nth.arm(n);
  g.translateOn(m.rig.root(m.mode === 'legacy' ? 0 : 1));
  m.use(A, 0x5000);
  one.set(B);
  m.sync(m.pages(5));
  m.use(B, A);
  m.configure(1);
  m.sync(...m.configurations(5));
  m.use(C, B);
  two.set(null);
  m.sync(m.pages(6));
  expect(m.dma()).toBe('ABORT');
  expect(m.recorded()).not.toBe(0);
  expect(g.r32(PAGE.FSTS.at) & ~0xff00 & ~PPF).toBe(0);
  g.w32(PAGE.GCMD.at, 0);
  const off = m.dma();
  if (m.mode !== 'pasid' && off !== 0x5000) expect([off, m.nth.hits, m.dma()]).toEqual(['ABORT', 1, 0x5000]);
  return m.nth.hits === 1;
}

describe.each(['verb', 'command'] as const)('the n-th %s of the host fails, for every n', (what) => {
  test.each(
    MODES.flatMap((mode) =>
      (mode === 'nested' ? (['arch'] as const) : (['qemu-11.1', 'arch'] as const)).map((profile) => ({
        mode,
        profile,
      })),
    ),
  )('$mode, $profile: no stale access after a wait, and the guest is told', ({ mode, profile }) => {
    expect(script(new Machine(mode, profile, what), 0)).toBe(false);
    let n = 1;
    while (script(new Machine(mode, profile, what), n)) n++;
    expect(n).toBeGreaterThan(5);
  });
});

describe('a request through registers', () => {
  test.each(['qemu-11.1', 'arch'] as const)('that the host refuses reports that nothing was done (%s)', (profile) => {
    const m = new Machine('legacy', profile, 'verb');
    const { g } = m.rig;
    m.tables[0]!.set(A);
    g.translateOn(m.rig.root());
    expect(m.dma()).toBe(A);
    m.tables[0]!.set(B);
    m.nth.arm(1);
    g.w64(PAGE.IVA.at, 0x5000n);
    const ask = 0xb000_0005_0000_0000n;
    g.w64(PAGE.IOTLB.at, ask);
    expect(m.nth.hits).toBe(1);
    expect(g.r32(PAGE.IOTLB.at + 4)).toBe(0x3000_0005);
    expect(m.dma()).toBe(B);
    g.w64(PAGE.IOTLB.at, ask);
    expect(g.r32(PAGE.IOTLB.at + 4)).toBe(0x3600_0005);
    m.configure(1);
    m.tables[1]!.set(C);
    m.nth.arm(1);
    g.w64(PAGE.CCMD.at, 0xe000_0000_0000_0000n | (BigInt(RID) << 16n));
    expect([m.nth.hits, g.r32(PAGE.CCMD.at + 4) >>> 27]).toEqual([1, 0b01100]);
    expect(m.dma()).toBe(C);
  });
});
