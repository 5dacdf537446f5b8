import { describe, expect, test } from 'vitest';
import { FaultyHw } from '../../../src/lib/inject/faulty-hw.ts';
import type { ProfileName } from '../../../src/lib/profile/profile.ts';
import { ACCESS, NO_PASID } from '../../../src/ports/dma.ts';
import { HW_ERROR, type HwPort } from '../../../src/ports/hw.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { CD, cfgiSte, nhVa, R, sync, type Words } from '../../devices/smmuv3/guest.ts';
import { wrapShadows } from '../wrap-shadows.ts';
import { Rig, Tables } from './rig.ts';

const SID = 8;
const IOVA = 0x5000;
const [A, B, C] = [0x4200_0000, 0x4200_1000, 0x4200_2000];
const VERBS = ['ioasAlloc', 'hwptAlloc', 'ioasMap', 'ioasUnmap', 'invalidate', 'viommuAlloc', 'vdeviceAlloc'] as const;
const CMDQ_ERR = 1;
const RD = 0xff_ffff;
/** STE word 2 of a stage 2 of 39 bits in 4 KiB pages that records its faults, without its VMID. */
const S2 = 0x040c_0059_0000_0000n;

type Mode = 'stage 1' | 'substream' | 'stage 2' | 'nested';
type What = 'verb' | 'command';

/** Counts the host's verbs or its hardware's commands; the n-th fails, and in `lasting` every one until it is mended. */
class Nth {
  readonly #lasting: boolean;
  #left = 0;
  hits = 0;

  constructor(lasting: boolean) {
    this.#lasting = lasting;
  }
  arm(n: number): void {
    this.#left = n;
    this.hits = 0;
  }
  mend(): void {
    this.#left = 0;
  }
  now(): boolean {
    if (this.#left === 0) return false;
    if (this.#left > 1) {
      this.#left--;
      return false;
    }
    if (!this.#lasting) this.#left = 0;
    this.hits++;
    return true;
  }
}

/** One configuration of the stream: its STE, what its leaf for IOVA says, and the command that makes a change known. */
interface Space {
  readonly ste: readonly bigint[];
  readonly changed: Words;
  set(to: number | null): void;
}

/** A guest with one function that has one page, over a host whose n-th verb or command can fail. */
class Machine {
  readonly rig: Rig;
  readonly nth: Nth;
  readonly mode: Mode;
  readonly spaces: Space[] = [];
  #seen = 0;

  constructor(mode: Mode, profile: ProfileName, what: What, lasting: boolean) {
    this.mode = mode;
    this.nth = new Nth(lasting);
    const properties = { profile, ...(mode === 'substream' ? { ssidsize: 8 } : {}) };
    const wrap = what === 'command' ? { wrapHw: (hw: HwPort) => this.#faulty(hw) } : {};
    // Hundreds of machines are made: small caches are made faster.
    this.rig = new Rig({ properties, caches: { iotlb: 64, walks: 64, streams: 16, contexts: 16 }, ...wrap });
    const unit = this.rig.plug(SID, 0, { pasidBits: 8 });
    for (let n = 0; n < 2; n++) this.spaces.push(this.#space(n));
    if (what === 'verb') this.#wrapVerbs(unit.vfio as unknown as Record<string, (...a: unknown[]) => number>);
  }

  #faulty(hw: HwPort): FaultyHw {
    const faulty = new FaultyHw(hw, {});
    faulty.inject({ match: () => this.nth.now(), error: HW_ERROR.ILLEGAL, times: 1e9 });
    return faulty;
  }

  #wrapVerbs(vfio: Record<string, (...a: unknown[]) => number>): void {
    const fd = this.rig.vm.iommufd as unknown as Record<string, (...a: unknown[]) => number>;
    for (const name of VERBS) {
      const real = fd[name]!.bind(fd);
      const error = name.endsWith('lloc') || name === 'ioasMap' ? E.NOMEM : E.IO;
      fd[name] = (...a) => (this.nth.now() ? -error : real(...a));
    }
    wrapShadows(this.rig.vm.upcalls, (name, real) =>
      this.nth.now() ? -(name === 'unmap' || name === 'clear' ? E.IO : E.NOMEM) : real(),
    );
    for (const name of ['attach', 'detach']) {
      const real = vfio[name]!.bind(vfio);
      vfio[name] = (...a) => (this.nth.now() ? -E.NOMEM : real(...a));
    }
  }

  #space(n: number): Space {
    const { g } = this.rig;
    const asid = 0x11 + n;
    const vmid = this.mode === 'stage 1' || this.mode === 'substream' ? 0 : 7 + n;
    const second = vmid === 0 ? null : this.#second(n, vmid);
    if (this.mode === 'stage 2') {
      const leaf = second!.leaf;
      return {
        ste: [0xdn, ...second!.words],
        changed: [(BigInt(vmid) << 32n) | 0x2an, IOVA],
        set: (to) => g.put(leaf, to === null ? 0n : BigInt(to) | 0x4ffn),
      };
    }
    const tables = new Tables(g, 0x4080_0000 + n * 0x10_0000);
    const cd = CD + 0x1000 * n;
    const word = tables.context(cd + (this.mode === 'substream' ? 64 * 3 : 0), asid);
    const many = this.mode === 'substream';
    const word0 = many ? BigInt(cd) | 0xbn | (8n << 59n) : second === null ? word : word | 0xfn;
    return {
      ste: [word0, ...(second?.words ?? [0n, 0n, 0n])],
      changed: nhVa(vmid, asid, IOVA),
      set: (to) => (to === null ? tables.unmap(IOVA) : tables.map(IOVA, to)),
    };
  }

  /** A stage 2 that maps all RAM one to one, and IOVA by a page of its own. */
  #second(n: number, vmid: number): { readonly words: readonly bigint[]; readonly leaf: number } {
    const { g } = this.rig;
    const at = 0x40c0_0000 + n * 0x10_0000;
    g.put(at, BigInt(at + 0x1000) | 3n, BigInt(at + 0x2000) | 3n);
    g.put(at + 0x1000, BigInt(at + 0x3000) | 3n);
    for (let i = 0; i < 32; i++) g.put(at + 0x2000 + 8 * i, BigInt(0x4000_0000 + i * 0x20_0000) | 0x4fdn);
    return { words: [0n, S2 | BigInt(vmid), BigInt(at)], leaf: at + 0x3000 + 8 * 5 };
  }

  configure(n: number): void {
    this.rig.g.ste(SID, ...this.spaces[n]!.ste);
  }

  dma(): number | string {
    return this.rig.dma(SID, IOVA, ACCESS.WRITE, 0, this.mode === 'substream' ? 3 : NO_PASID);
  }

  /** Records since the last call. */
  recorded(): number {
    const { g } = this.rig;
    const now = g.r(R.EVENTQ_PROD);
    const count = (now - this.#seen + 16) % 16;
    this.#seen = now;
    g.w(R.EVENTQ_CONS, now);
    return count;
  }

  /** One access; an aborted one must have been recorded, or its configuration refused. Then it is tried again. */
  use(expected: number, old: number): void {
    const first = this.dma();
    expect(first).not.toBe(old);
    if (first === 'ABORT') {
      expect(this.nth.hits).toBeGreaterThan(0);
      expect(this.recorded()).toBeGreaterThan(0);
      this.nth.mend();
      expect(this.dma()).toBe(expected);
    } else expect([first, this.recorded()]).toEqual([expected, 0]);
  }

  /** Commands with a SYNC behind: it completes, or the guest is told at a command, acknowledges, and then it completes. */
  sync(...commands: Words[]): void {
    const { g } = this.rig;
    const from = g.prod;
    const cons = g.run(...commands, sync);
    if ((g.r(PAGE0.GERROR.at) ^ g.r(PAGE0.GERRORN.at)) & CMDQ_ERR) {
      expect(this.nth.hits).toBeGreaterThan(0);
      expect(cons >>> 24).toBe(1);
      expect(((cons & RD) - from + 16) % 16).toBeLessThanOrEqual(commands.length);
      this.nth.mend();
      g.w(PAGE0.GERRORN.at, g.r(PAGE0.GERROR.at));
    }
    expect(g.r(PAGE0.CMDQ_CONS.at) & RD).toBe(g.prod);
    expect((g.r(PAGE0.GERROR.at) ^ g.r(PAGE0.GERRORN.at)) & CMDQ_ERR).toBe(0);
  }
}

/** Configures, remaps, changes the entry, unmaps, switches off. @returns whether the n-th of something did fail. */
function script(m: Machine, n: number): boolean {
  const { g } = m.rig;
  const [one, two] = m.spaces as [Space, Space];
  one.set(A);
  two.set(C);
  g.setUp(5, 3, 3);
  m.nth.arm(n);
  m.configure(0);
  m.sync(cfgiSte(SID));
  m.use(A, IOVA);
  one.set(B);
  m.sync(one.changed);
  m.use(B, A);
  m.configure(1);
  m.sync(cfgiSte(SID));
  m.use(C, B);
  two.set(null);
  m.sync(two.changed);
  expect(m.dma()).toBe('ABORT');
  expect(m.recorded()).toBeGreaterThan(0);
  g.ste(SID, 0n);
  m.sync(cfgiSte(SID));
  expect(m.dma()).toBe('ABORT');
  return m.nth.hits > 0;
}

const CASES = (['stage 1', 'substream', 'stage 2', 'nested'] as const).flatMap((mode) =>
  (mode === 'substream' ? (['arch'] as const) : (['qemu-11.1', 'arch'] as const)).flatMap((profile) =>
    [false, true].map((lasting) => ({ mode, profile, how: lasting ? 'until it is mended' : 'once', lasting })),
  ),
);

describe.each(['verb', 'command'] as const)('the n-th %s of the host fails, for every n', (what) => {
  test.each(CASES)('$mode, $profile, $how: no stale access after a SYNC, and the guest is told', (c) => {
    expect(script(new Machine(c.mode, c.profile, what, c.lasting), 0)).toBe(false);
    let n = 1;
    while (script(new Machine(c.mode, c.profile, what, c.lasting), n)) n++;
    expect(n).toBeGreaterThan(3);
  });
});
