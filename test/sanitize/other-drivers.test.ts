import { describe, expect, test } from 'vitest';
import { DATA, Guest, RAM, rulesOf } from './driver.ts';
import { SMMU, SmmuDriver } from './smmuv3-driver.ts';
import { GCMD, VTD, VtdDriver } from './vtd-driver.ts';

/** The order in which other drivers in use go about it, as programs of our own: all of it is legal. */
const VA = 0x10_0000;

/** A driver of a VT-d unit that invalidates by registers, as firmware and OpenBSD do. */
class RegisterDriver {
  readonly guest = new Guest();
  readonly roots = this.guest.alloc();
  readonly contexts = this.guest.alloc();
  readonly top = this.guest.alloc();
  readonly #tables = [this.guest.alloc(), this.guest.alloc(), this.guest.alloc()];

  constructor() {
    this.guest.r(VTD.CAP, 0xd2_008c_222f_0406n, 8).r(VTD.ECAP, 0xf00f4en, 8);
    for (const page of [this.roots, this.contexts]) this.guest.st(page, 0);
  }

  command(value: number, status: number): void {
    this.guest.w(VTD.GCMD, value).r(VTD.GSTS, status);
  }

  /** ICC set, read back clear; global. */
  contextCache(): void {
    this.guest
      .r(VTD.CCMD, 0, 8)
      .w(VTD.CCMD, (1n << 63n) | (1n << 61n), 8)
      .r(VTD.CCMD, 1n << 59n, 8);
  }

  /** @param granularity 1 global, 2 of a domain. */
  iotlb(granularity: number, did = 0): void {
    const value = (BigInt(granularity) << 60n) | (BigInt(did) << 32n);
    this.guest
      .r(VTD.IOTLB, 0, 8)
      .w(VTD.IOTLB, (1n << 63n) | value, 8)
      .r(VTD.IOTLB, BigInt(granularity) << 57n, 8);
  }

  /** The leaf of `va`, below tables that are linked by the first store. */
  leaf(va: number, value: bigint): void {
    const [t3, t2, t1] = this.#tables as [number, number, number];
    if (this.guest.get(this.top) === 0n)
      for (const [at, to] of [
        [t2, t1],
        [t3, t2],
        [this.top, t3],
      ] as const)
        this.guest.st(at, BigInt(to) | 3n);
    this.guest.st(t1 + 8 * (va >>> 12), value);
  }

  rules(): string[] {
    const found = this.guest.judge('vtd').filter((f) => f.severity !== 'hint');
    return [...new Set(found.map((f) => f.rule))].sort();
  }
}

describe('VT-d by registers', () => {
  test('EDK2: tables first, root, contexts, IOTLB, then translation; a flush of everything behind each change', () => {
    const d = new RegisterDriver();
    const g = d.guest;
    g.st(d.roots, BigInt(d.contexts) | 1n);
    g.st(d.contexts + 16 * 8 + 8, 2n | (1n << 8n)).st(d.contexts + 16 * 8, BigInt(d.top) | 1n);
    g.w(VTD.RTADDR, d.roots, 8);
    d.command(GCMD.SRTP, GCMD.SRTP);
    g.r(VTD.FEDATA, 0);
    d.contextCache();
    d.iotlb(1);
    d.command(GCMD.TE, GCMD.TE + GCMD.SRTP);
    for (let n = 0; n < 4; n++) {
      d.leaf(VA, BigInt(DATA + 0x1000 * n) | 3n);
      d.iotlb(1);
      g.dma(8, VA, DATA + 0x1000 * n);
      d.leaf(VA, 0n);
      d.iotlb(1);
    }
    d.command(0, GCMD.SRTP);

    expect(d.rules()).toEqual([]);
  });

  test('OpenBSD: the root first, faults on, translation, then contexts one by one and a flush of the domain', () => {
    const d = new RegisterDriver();
    const g = d.guest;
    g.w(VTD.FSTS, 3).r(VTD.FECTL, 0x8000_0000).w(VTD.FECTL, 0);
    g.w(VTD.RTADDR, d.roots, 8);
    d.command(GCMD.SRTP, GCMD.SRTP);
    d.iotlb(1);
    d.contextCache();
    d.command(GCMD.TE, GCMD.TE + GCMD.SRTP);
    g.st(d.roots, BigInt(d.contexts) | 1n);
    const at = d.contexts + 16 * 8;
    g.st(at, d.top)
      .st(at + 8, 0x500)
      .st(at + 8, 0x502)
      .st(at, BigInt(d.top) | 1n);
    for (let n = 0; n < 4; n++) {
      d.leaf(VA, BigInt(DATA + 0x1000 * n) | 3n);
      g.dma(8, VA, DATA + 0x1000 * n);
      d.leaf(VA, 0n);
      d.iotlb(2, 5);
    }

    expect(d.rules()).toEqual([]);
  });

  test('but not without that flush', () => {
    const d = new RegisterDriver();
    const g = d.guest;
    g.st(d.roots, BigInt(d.contexts) | 1n);
    g.st(d.contexts + 16 * 8 + 8, 2n | (1n << 8n)).st(d.contexts + 16 * 8, BigInt(d.top) | 1n);
    g.w(VTD.RTADDR, d.roots, 8);
    d.command(GCMD.SRTP, GCMD.SRTP);
    d.contextCache();
    d.iotlb(1);
    d.command(GCMD.TE, GCMD.TE + GCMD.SRTP);
    d.leaf(VA, BigInt(DATA) | 3n);
    g.dma(8, VA, DATA);
    d.leaf(VA, 0n);
    d.leaf(VA, BigInt(DATA + 0x1000) | 3n);

    expect(d.rules()).toEqual(['missing-invalidation']);
  });
});

/** A driver of an SMMUv3 that rings for every command. */
class SlowDriver {
  readonly guest = new Guest();
  readonly queue = this.guest.alloc();
  readonly events = this.guest.alloc();
  #prod = 0;

  constructor() {
    this.guest.r(0, 0x0d54_1c1b).r(4, 0x2739_5280).r(0xc, 0x404).r(0x14, 0x74);
    this.guest.st(this.queue, 0);
  }

  /** The queues, and CR0 step by step. @param last what CR0 says in the end. */
  start(commands: readonly (readonly [bigint, bigint])[], last: number): void {
    const g = this.guest;
    g.w(SMMU.CMDQ_BASE, BigInt(this.queue) | 8n, 8)
      .w(SMMU.PROD, 0)
      .w(SMMU.CONS, 0);
    g.w(SMMU.EVENTQ_BASE, BigInt(this.events) | 7n, 8)
      .w(SMMU.EVENTQ_PROD, 0)
      .w(SMMU.EVENTQ_CONS, 0);
    g.w(SMMU.CR0, 0xc).r(SMMU.CR0ACK, 0xc);
    for (const [w0, w1] of commands) this.command(w0, w1);
    g.w(SMMU.CR0, last).r(SMMU.CR0ACK, last);
  }

  command(w0: bigint, w1: bigint): void {
    for (const [a, b] of [
      [w0, w1],
      [0x2046n, 0n],
    ] as const) {
      const at = this.queue + 16 * (this.#prod % 256);
      this.guest
        .r(SMMU.CONS, this.#prod)
        .st(at, a)
        .st(at + 8, b);
      this.#prod = (this.#prod + 1) % 512;
      this.guest.w(SMMU.PROD, this.#prod);
    }
    this.guest.r(SMMU.CONS, this.#prod);
  }

  rules(): string[] {
    const found = this.guest.judge('smmuv3').filter((f) => f.severity !== 'hint');
    return [...new Set(found.map((f) => f.rule))].sort();
  }
}

describe('SMMUv3', () => {
  test('OpenBSD: two-level stream table, streams of EL2 one by one, one command and one sync at a time', () => {
    const d = new SlowDriver();
    const g = d.guest;
    const level1 = g.alloc();
    g.st(level1, 0);
    g.w(SMMU.STRTAB_BASE, level1, 8).w(SMMU.STRTAB_BASE_CFG, 0x1_0210);
    d.start(
      [
        [0x04n, 31n],
        [0x20n, 0n],
        [0x30n, 0n],
      ],
      0xd,
    );
    const streams = g.alloc(64 * 256);
    const sid = 0x10;
    for (const [asid, stream] of [
      [1, sid],
      [2, sid + 1],
    ] as const) {
      const [cd, root, t1, t2] = [g.alloc(), g.alloc(), g.alloc(), g.alloc()];
      // T0SZ 25, EPD1, V, IPS 48 bits, AA64, R, A, ASET.
      const word = 25n | (1n << 30n) | (1n << 31n) | (5n << 32n) | (1n << 41n) | (7n << 45n) | (BigInt(asid) << 48n);
      g.st(cd, word).st(cd + 8, root);
      d.command(0x05n | (BigInt(stream) << 32n), 1n);
      if (asid === 1) {
        g.st(streams + 64 * stream, 0);
        g.st(level1, BigInt(streams) | 9n);
      }
      const ste = streams + 64 * stream;
      // EL2 (STRW 2), S1DSS 2.
      g.st(ste + 8, (2n << 30n) | 2n).st(ste, 0xbn | BigInt(cd));
      d.command(0x03n | (BigInt(stream) << 32n), 1n);
      d.command(0x21n | (BigInt(asid) << 48n), 0n);
      g.st(root, BigInt(t1) | 3n).st(t1, BigInt(t2) | 3n);
      for (let n = 0; n < 4; n++) {
        g.st(t2 + 8 * (VA >>> 12), BigInt(DATA + 0x1000 * n) | 0xc43n);
        g.dma(stream, VA, DATA + 0x1000 * n);
        g.st(t2 + 8 * (VA >>> 12), 0);
        d.command(0x22n | (BigInt(asid) << 48n), BigInt(VA) | 1n);
      }
    }

    expect(d.rules()).toEqual([]);
  });

  test('firmware: every stream of a linear table through one stage 2, filled before it is enabled, then changed page by page', () => {
    const d = new SlowDriver();
    const g = d.guest;
    const [streams, root, t1, t2] = [g.alloc(64 * 32), g.alloc(), g.alloc(), g.alloc()];
    // S2VMID 1, T0SZ 25, SL0 1, 44 bits, AA64, R.
    const word = 1n | (25n << 32n) | (1n << 38n) | (4n << 48n) | (1n << 51n) | (1n << 58n);
    for (let n = 0; n < 32; n++) {
      const ste = streams + 64 * n;
      g.st(ste, 0xd)
        .st(ste + 8, 0)
        .st(ste + 16, word)
        .st(ste + 24, root);
    }
    g.w(SMMU.CR0, 0).r(SMMU.CR0ACK, 0).w(SMMU.IRQ_CTRL, 0).r(SMMU.IRQ_CTRLACK, 0);
    g.w(SMMU.STRTAB_BASE_CFG, 5).w(SMMU.STRTAB_BASE, streams, 8);
    d.start(
      [
        [0x04n, 31n],
        [0x30n, 0n],
        [0x20n, 0n],
      ],
      0xd,
    );
    g.r(SMMU.GERROR, 0);
    g.st(root, BigInt(t1) | 3n).st(t1, BigInt(t2) | 3n);
    for (let n = 0; n < 4; n++) {
      g.st(t2 + 8 * (VA >>> 12), BigInt(VA) | 0x4c3n);
      g.dma(8 + n, VA, VA);
      g.st(t2 + 8 * (VA >>> 12), 0);
      d.command(0x2an | (1n << 32n), BigInt(VA));
    }
    g.w(SMMU.CR0, 0xc).r(SMMU.CR0ACK, 0xc);
    expect(RAM).toBeGreaterThan(VA);
    expect(d.rules()).toEqual([]);
  });
});

describe('Linux as the host of a guest that has its own first stage', () => {
  test("SMMUv3: abort, the nested STE, the guest's CDs and invalidations, and pages of the parent that go", () => {
    const d = new SmmuDriver({ stage2: true });
    const g = d.guest;
    const sid = 16;
    const at = d.streams + 64 * sid;
    const ipa = 0x8000_0000;
    d.entry(0x4000_0000, d.leaf(0x4000_0000, true, true), 0);
    d.map(ipa, DATA);
    // Abort at first, then the words that abort does not look at, then the first one.
    g.st(at, 1);
    d.config(sid);
    const [root, middle, last] = [g.alloc(), g.alloc(), g.alloc()];
    g.st(root, BigInt(middle) | 3n).st(middle, BigInt(last) | 3n);
    d.cd(0, root, d.asid);
    const [, w1, w2, w3] = d.steWords();
    g.st(at + 8, w1! | (1n << 28n))
      .st(at + 16, w2!)
      .st(at + 24, w3!);
    d.config(sid);
    g.st(at, 0xfn | BigInt(d.cds));
    d.config(sid);
    d.command(0x06n | (BigInt(sid) << 32n), 0n);
    d.submit();
    for (let n = 0; n < 3; n++) {
      g.st(last + 8 * (VA >>> 12), BigInt(ipa) | 0xc43n);
      g.dma(sid, VA, DATA + 0x1000 * n);
      // The guest unmaps: its command with its VMID made the host's, then its ATC_INV.
      g.st(last + 8 * (VA >>> 12), 0);
      d.command(0x12n | (BigInt(d.vmid) << 32n) | (BigInt(d.asid) << 48n), BigInt(VA) | 1n);
      d.submit();
      d.command(0x40n | (BigInt(sid) << 32n), BigInt(VA));
      d.submit();
      // The host takes the page of the parent: by intermediate address, all of the VMID, and all of every function.
      g.st(last + 8 * (VA >>> 12), BigInt(ipa) | 0xc43n);
      d.unmap(ipa);
      d.invalidate(ipa);
      d.command(0x10n | (BigInt(d.vmid) << 32n), 0n);
      d.submit();
      d.command(0x40n | (BigInt(sid) << 32n), 52n);
      d.submit();
      d.map(ipa, DATA + 0x1000 * (n + 1));
      g.st(last + 8 * (VA >>> 12), 0);
      d.command(0x11n | (BigInt(d.vmid) << 32n) | (BigInt(d.asid) << 48n), 0n);
      d.submit();
      d.command(0x40n | (BigInt(sid) << 32n), 52n);
      d.submit();
    }
    // The nested domain goes.
    g.st(at, 1);
    d.config(sid);
    d.command(0x28n | (BigInt(d.vmid) << 32n), 0n);
    d.submit();

    expect(rulesOf(d)).toEqual([]);
  });

  test("VT-d: a nested PASID entry, the guest's invalidations by PASID, and pages of the parent by domain", () => {
    const d = new VtdDriver({ scalable: true, ats: true });
    const g = d.guest;
    const [did, pasid, ipa] = [9, 3, 0x8000_0000];
    const [second, s3, s2, s1] = [g.alloc(), g.alloc(), g.alloc(), g.alloc()];
    g.st(second, BigInt(s3) | 3n)
      .st(s3 + 8, 0x4000_0083n)
      .st(s3 + 16, BigInt(s2) | 3n)
      .st(s2, BigInt(s1) | 3n)
      .st(s1, BigInt(DATA) | 3n);
    const [first, f3, f2, f1] = [g.alloc(), g.alloc(), g.alloc(), g.alloc()];
    g.st(first, BigInt(f3) | 7n)
      .st(f3, BigInt(f2) | 7n)
      .st(f2, BigInt(f1) | 7n);
    const at = d.pasids + 64 * pasid;
    g.st(at + 16, first)
      .st(at + 8, did)
      .st(at, BigInt(second) | 0xc8n)
      .st(at, BigInt(second) | 0xc9n);
    const cache = () => {
      d.descriptor(7n | (1n << 4n) | (BigInt(did) << 16n) | (BigInt(pasid) << 32n), 0n);
      d.descriptor(6n | (2n << 4n) | (BigInt(did) << 16n) | (BigInt(pasid) << 32n), 0n);
      d.submit();
    };
    const device = (page: bigint) => {
      d.descriptor(8n | (BigInt(d.sid) << 16n) | (BigInt(pasid) << 32n), page);
      d.submit();
    };
    cache();
    for (let n = 0; n < 3; n++) {
      g.st(f1 + 8 * (VA >>> 12), BigInt(ipa) | 7n);
      // The guest unmaps.
      g.st(f1 + 8 * (VA >>> 12), 0);
      d.descriptor(6n | (3n << 4n) | (BigInt(did) << 16n) | (BigInt(pasid) << 32n), BigInt(VA));
      d.submit();
      device(BigInt(VA));
      // The host takes the page of the parent.
      g.st(f1 + 8 * (VA >>> 12), BigInt(ipa) | 7n);
      g.st(s1, 0);
      d.descriptor(2n | (3n << 4n) | (BigInt(did) << 16n), BigInt(ipa));
      d.submit();
      device(0x7fff_ffff_ffff_f800n);
      g.st(s1, BigInt(DATA + 0x1000 * (n + 1)) | 3n);
      g.st(f1 + 8 * (VA >>> 12), 0);
      d.descriptor(6n | (2n << 4n) | (BigInt(did) << 16n) | (BigInt(pasid) << 32n), 0n);
      d.submit();
      device(0x7fff_ffff_ffff_f800n);
    }
    g.st(at, BigInt(second) | 0xc8n);
    cache();
    device(0x7fff_ffff_ffff_f800n);
    g.st(at, 0)
      .st(at + 8, 0)
      .st(at + 16, 0);

    expect(rulesOf(d)).toEqual([]);
  });
});
