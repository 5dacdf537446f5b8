import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Untranslated } from '../../../bus/iommu-ports.ts';
import { DmaEngine, ENGINE } from '../../../devices/endpoints/dma-engine.ts';
import { Shell } from '../../../devices/endpoints/shell.ts';
import { Afterwards } from '../../../src/adapters/iommufd-socket/afterwards.ts';
import { HostBus, type HostFunction, X86_DOORBELL } from '../../../src/adapters/iommufd-socket/host-bus.ts';
import type { Caller, EventSignal } from '../../../src/host/ioctl/caller.ts';
import { VfioPciDevice } from '../../../src/host/vfio/pci-device.ts';
import { AddressSpace, ramBacking } from '../../../src/lib/memory/address-space.ts';
import type { PciFunction } from '../../../src/ports/pci.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { VFIO, VFIO_IRQ_SET } from '../../../src/spec/iommufd/vfio.ts';

const CONFIG = 7n << 40n;

/** An eventfd that counts what happens to it. */
class Event implements EventSignal {
  signals = 0;
  releases = 0;
  signal(): void {
    this.signals++;
  }
  release(): void {
    this.releases++;
  }
}

/** A process with a page of memory at 0, in which descriptors 0 to 9 are eventfds. */
class Program {
  readonly events: Event[] = [];
  readonly bytes = new Uint8Array(4096);
  get caller(): Caller {
    return {
      read: (at: bigint, into: Uint8Array) => {
        into.set(this.bytes.subarray(Number(at), Number(at) + into.length));
        return true;
      },
      write: (at: bigint, from: Uint8Array) => {
        this.bytes.set(from, Number(at));
        return true;
      },
      eventFd: (fd: number) => {
        if (fd > 9) return fd === 10 ? -E.INVAL : -E.BADF;
        const made = new Event();
        this.events.push(made);
        return made;
      },
    } as Partial<Caller> as Caller;
  }
}

/** A function on a bus with 1 MiB of memory and no translation, under vfio-pci, opened. */
class Stand {
  readonly program = new Program();
  readonly hardware: HostFunction;
  readonly device: VfioPciDevice;

  constructor(fn: PciFunction = new DmaEngine().fn) {
    const memory = new AddressSpace();
    memory.addRam(0, 1 << 20, ramBacking(1 << 20));
    const translate = new Untranslated();
    const messages = {
      ...translate,
      get out() {
        return translate.out;
      },
      translate: (rid: number, pasid: number, lo: number, hi: number) =>
        lo >>> 0 >= 0xfee0_0000 ? 4 : translate.translate(rid, pasid, lo, hi),
    };
    const afterwards = new Afterwards((error) => {
      throw error;
    });
    const bus = new HostBus(memory, { translate: messages, ats: null }, X86_DOORBELL, afterwards);
    this.hardware = bus.plug(fn, 0);
    this.device = new VfioPciDevice(this.hardware);
    this.device.opened();
  }

  read(at: number, size = 1): number {
    const into = new Uint8Array(size);
    expect(this.device.pread(CONFIG + BigInt(at), into)).toBe(size);
    return into.reduceRight((v, byte) => v * 256 + byte, 0);
  }
  write(at: number, value: number, size = 1): void {
    const from = Uint8Array.from({ length: size }, (_, i) => Math.floor(value / 256 ** i));
    expect(this.device.pwrite(CONFIG + BigInt(at), from)).toBe(size);
  }

  irqs(index: number, flags: number, start: number, count: number, data: readonly number[] = []): number {
    const view = new DataView(this.program.bytes.buffer);
    [20 + 4 * data.length, flags, index, start, count].forEach((v, i) => {
      view.setUint32(4 * i, v, true);
    });
    for (const [i, v] of data.entries()) {
      if ((flags & VFIO_IRQ_SET.BOOL) !== 0) view.setUint8(20 + i, v);
      else view.setInt32(20 + 4 * i, v, true);
    }
    return this.device.ioctl(VFIO.DEVICE_SET_IRQS, 0n, this.program.caller);
  }
}

/** Bits of the engine's configuration space that a user may change, from the kernel's tables: written down, not computed. */
function writable(at: number, pcie: number, aer: number): number {
  if (at === 4 || at === 5) return 0xff;
  if (at === 0x0c || at === 0x0d || at === 0x0f || at === 0x3c) return 0xff;
  // BAR 0 has 4 KiB and 64 bits.
  if (at === 0x11) return 0xf0;
  if (at >= 0x12 && at < 0x18) return 0xff;
  if (at === pcie + 8 || at === pcie + 40) return 0xff;
  if (at === pcie + 9) return 0xfd;
  if (at === pcie + 41) return 0xff;
  return at >= aer + 4 && at < aer + 28 ? 0xff : 0;
}

describe('configuration space', () => {
  test('of each byte only those bits change that the kernel lets a user change, and BARs of the hardware never do', () => {
    const s = new Stand();
    const pcie = findCapability(s, 0x10);
    const aer = findExtended(s, 1);
    const bars = Array.from({ length: 6 }, (_, i) => s.hardware.configRead(0x10 + 4 * i, 4));
    for (let at = 0; at < 4096; at++) {
      const before = s.read(at);
      s.write(at, ~before & 0xff & ~(at === pcie + 9 ? 0x80 : 0));
      expect([at.toString(16), (before ^ s.read(at)) & ~writable(at, pcie, aer)]).toEqual([at.toString(16), 0]);
    }
    expect(Array.from({ length: 6 }, (_, i) => s.hardware.configRead(0x10 + 4 * i, 4))).toEqual(bars);
  });

  test('a PASID capability is not shown, and everything behind it is', () => {
    const s = new Stand();
    const shown: number[] = [];
    for (let at = 0x100; at !== 0; at = s.read(at, 4) >>> 20) shown.push(s.read(at, 2));
    expect(shown).toEqual([0x0001, 0x000f, 0x0013]);
    expect(s.hardware.configRead(findExtended(s, 0x13), 4) >>> 20).not.toBe(0);
  });

  test("ATS and page requests are not the user's to switch", () => {
    const s = new Stand();
    s.hardware.control.setAts(true);
    const ats = findExtended(s, 0x0f);
    s.write(ats + 6, 0, 2);
    expect(s.read(ats + 6, 2)).toBe(0x8000);
    expect(s.device.ioctl(VFIO.DEVICE_RESET, 0n, s.program.caller)).toBe(0);
    expect(s.read(ats + 6, 2)).toBe(0x8000);
  });

  test('function level reset through Device Control resets, and the bit reads as zero', () => {
    const s = new Stand();
    const pcie = findCapability(s, 0x10);
    s.hardware.barWrite(0, ENGINE.RING_LOG2, 4, 5);
    s.write(0x10, 0x8000_0000, 4);
    s.write(pcie + 8, s.read(pcie + 8, 2) | 0x8000, 2);
    expect(s.read(pcie + 8, 2) & 0x8000).toBe(0);
    expect(s.hardware.barRead(0, ENGINE.RING_LOG2, 4)).toBe(0);
    // What the user sees of its BARs stays.
    expect(s.read(0x10, 4)).toBe(0x8000_0004);
  });

  test('controls of PCI Express and masks of errors are as before after a reset, however it was asked for', () => {
    const s = new Stand();
    const at = findCapability(s, 0x10);
    const aer = findExtended(s, 1);
    const seen = () => [s.read(at + 8, 2) & 0x0f, s.read(at + 40, 2) & 0x0f, s.read(aer + 8, 4), s.read(aer + 20, 4)];
    s.write(at + 8, (s.read(at + 8, 2) & ~0x0f) | 0x05, 2);
    s.write(at + 40, 0x05, 2);
    s.write(aer + 8, 0x0010_1000, 4);
    s.write(aer + 20, 0x0000_1040, 4);
    const before = seen();
    expect(before[0]).toBe(5);
    expect(s.device.ioctl(VFIO.DEVICE_RESET, 0n, s.program.caller)).toBe(0);
    expect(seen()).toEqual(before);
    s.write(at + 8, s.read(at + 8, 2) | 0x8000, 2);
    expect(seen()).toEqual(before);
  });

  test('reads and writes across registers are the same as one by one, and end with the space', () => {
    const s = new Stand();
    const all = new Uint8Array(4096);
    expect(s.device.pread(CONFIG, all)).toBe(4096);
    for (let at = 0; at < 4096; at += 7) expect(s.read(at)).toBe(all[at]);
    // vfio_config_do_rw takes nothing that does not end in the space; whoever wants nothing gets it anywhere.
    for (const at of [4000n, 4093n, 4096n, 5000n]) {
      expect(s.device.pread(CONFIG + at, new Uint8Array(200))).toBe(-E.FAULT);
      expect(s.device.pwrite(CONFIG + at, new Uint8Array(200))).toBe(-E.FAULT);
    }
    expect(s.device.pread(CONFIG + 3896n, new Uint8Array(200))).toBe(200);
    for (const at of [CONFIG + 4096n, 4096n, 9n << 40n, -1n]) {
      expect(s.device.pread(at, new Uint8Array(0))).toBe(0);
      expect(s.device.pwrite(at, new Uint8Array(0))).toBe(0);
    }
    expect(s.device.pread(4096n, all)).toBe(-E.INVAL);
    expect(s.device.pread(4092n, all)).toBe(4);
    expect(s.device.pwrite(-1n, all)).toBe(-E.INVAL);
  });
});

function findCapability(s: Stand, id: number): number {
  let at = s.read(0x34);
  while (at !== 0 && s.read(at) !== id) at = s.read(at + 1);
  return at;
}
function findExtended(s: Stand, id: number): number {
  let at = 0x100;
  while (at !== 0 && s.read(at, 2) !== id) at = s.read(at, 4) >>> 20;
  return at;
}

describe('interrupts', () => {
  const word = fc.integer({ min: -1, max: 11 });
  const call = fc.record({
    index: fc.integer({ min: 0, max: 5 }),
    flags: fc.oneof(
      fc.constantFrom(0x21, 0x22, 0x24, 0x09, 0x11, 0x0a, 0x0c, 0x12, 0x14),
      fc.integer({ min: 0, max: 127 }),
    ),
    start: fc.integer({ min: 0, max: 3 }),
    count: fc.integer({ min: 0, max: 4 }),
    data: fc.array(word, { maxLength: 4 }),
    reset: fc.boolean(),
  });

  test('whatever a user asks for, in whatever order, every eventfd it gave is let go exactly once', () => {
    fc.assert(
      fc.property(fc.array(call, { maxLength: 20 }), (calls) => {
        const s = new Stand();
        for (const c of calls) {
          const r = s.irqs(c.index, c.flags, c.start, c.count, c.data);
          expect([0, -E.INVAL, -E.NOTTY, -E.BADF, -E.NODEV]).toContain(r);
          if (c.reset) s.device.reset();
          for (const e of s.program.events) expect(e.releases).toBeLessThan(2);
        }
        s.device.closed();
        expect(s.program.events.filter((e) => e.releases !== 1)).toEqual([]);
      }),
      { numRuns: 300 },
    );
  });

  test('of several MSI-X vectors each tells its own eventfd, also after a reset; without one it stays pending', () => {
    const { fn } = new DmaEngine();
    const s = new Stand(fn);
    s.write(4, 6, 2);
    expect(s.irqs(2, 0x24, 0, 2, [1, -1])).toBe(0);
    const raise = (vector: number) => fn.interrupts.raise(vector);
    raise(0);
    raise(1);
    expect(s.program.events.map((e) => e.signals)).toEqual([1]);
    expect(s.irqs(2, 0x24, 1, 1, [2])).toBe(0);
    expect(s.program.events.map((e) => e.signals)).toEqual([1, 1]);
    s.device.reset();
    s.write(4, 6, 2);
    raise(1);
    expect(s.program.events.map((e) => e.signals)).toEqual([1, 2]);
  });

  test('MSI: the granted vectors are those that were asked for, and each has its eventfd', () => {
    const fn = new Shell({
      name: 'msi',
      identity: { vendor: 1, device: 2, classCode: 0xff0000, pin: 1 },
      bars: [{ index: 0, bytes: 4096, kind: 'mem32' }],
      msi: 4,
      ats: null,
      pri: null,
      pasid: null,
    });
    const s = new Stand(fn);
    s.write(4, 6, 2);
    expect(s.irqs(1, 0x24, 0, 5, [0, 1, 2, 3, 4])).toBe(-E.INVAL);
    expect(s.irqs(1, 0x24, 0, 3, [0, 1, 2])).toBe(0);
    for (const v of [2, 0, 2]) fn.interrupts.raise(v);
    expect(s.program.events.map((e) => e.signals)).toEqual([1, 0, 2]);
    // A vector that MSI was not turned on with cannot be added: no descriptor is looked at.
    expect(s.irqs(1, 0x24, 3, 1, [3])).toBe(-E.INVAL);
    expect(s.irqs(1, 0x21, 0, 0)).toBe(0);
    fn.interrupts.raise(2);
    expect(s.program.events.map((e) => [e.signals, e.releases])).toEqual([
      [1, 1],
      [0, 1],
      [2, 1],
    ]);
  });

  test('a pin that is up when somebody begins to listen is told of at once', async () => {
    const { fn } = new DmaEngine();
    const s = new Stand(fn);
    s.write(4, 6, 2);
    fn.interrupts.raise(0);
    await new Promise((later) => setTimeout(later, 1));
    expect(s.irqs(0, 0x24, 0, 1, [1])).toBe(0);
    expect(s.program.events.map((e) => e.signals)).toEqual([1]);
    // It is masked until it is served, and then told of again.
    expect(s.irqs(0, 0x11, 0, 1)).toBe(0);
    expect(s.program.events.map((e) => e.signals)).toEqual([2]);
  });

  test.each([
    ['the first', [10, 1, 2], [1, 0, 0], [true, false, false]],
    ['the second', [0, 11, 2], [1, 1, 0], [true, true, false]],
    ['the last', [0, 1, 10], [1, 1, 1], [true, true, true]],
  ])('of a block of vectors of which %s has no eventfd, those up to it have nobody', (_, fds, gone, released) => {
    const fn = new Shell({
      name: 'msi-x',
      identity: { vendor: 1, device: 2, classCode: 0xff0000, pin: 1 },
      bars: [{ index: 0, bytes: 4096, kind: 'mem32' }],
      msix: { vectors: 4, bar: 0, table: 0x800, pending: 0xc00 },
      ats: null,
      pri: null,
      pasid: null,
    });
    const s = new Stand(fn);
    s.write(4, 6, 2);
    // Without interrupts nothing is left of such a call.
    expect(s.irqs(2, 0x24, 0, 3, fds)).toBeLessThan(0);
    expect(s.program.events.filter((e) => e.releases !== 1)).toEqual([]);
    s.program.events.length = 0;
    expect(s.irqs(2, 0x24, 0, 3, [3, 4, 5])).toBe(0);
    const held = [...s.program.events];
    expect(s.irqs(2, 0x24, 0, 3, fds)).toBeLessThan(0);
    expect(held.map((e) => e.releases === 1)).toEqual(released);
    expect(s.program.events.slice(3).filter((e) => e.releases !== 1)).toEqual([]);
    for (const v of [0, 1, 2]) fn.interrupts.raise(v);
    expect(held.map((e) => 1 - e.signals)).toEqual(gone);
    // More vectors than there are: nothing changes.
    expect(s.irqs(2, 0x24, 2, 3, [10, 10, 10])).toBe(-E.INVAL);
    expect(held.map((e) => e.releases === 1)).toEqual(released);
  });

  test('errors and requests: by hand only when somebody listens, and only -1 lets go', () => {
    const s = new Stand();
    for (const index of [3, 4]) {
      for (const count of [0, 1]) expect(s.irqs(index, 0x21, 0, count)).toBe(-E.INVAL);
      expect(s.irqs(index, 0x22, 0, 1, [1])).toBe(0);
      expect(s.irqs(index, 0x24, 0, 1, [1])).toBe(0);
      const event = s.program.events.at(-1)!;
      expect([s.irqs(index, 0x24, 0, 1, [-2]), event.releases]).toEqual([0, 0]);
      expect([s.irqs(index, 0x21, 0, 1), event.signals]).toEqual([0, 1]);
      expect([s.irqs(index, 0x21, 0, 0), event.releases]).toEqual([0, 1]);
      expect(s.irqs(index, 0x21, 0, 0)).toBe(-E.INVAL);
    }
  });

  test('errors and the request to give the device back have one eventfd each', () => {
    const s = new Stand();
    for (const [index, tell] of [
      [3, () => s.device.error()],
      [4, () => s.device.request()],
    ] as const) {
      expect(tell()).toBe(false);
      expect(s.irqs(index, 0x24, 0, 1, [1])).toBe(0);
      const event = s.program.events.at(-1)!;
      expect(tell()).toBe(true);
      expect(event.signals).toBe(1);
      expect(s.irqs(index, 0x24, 0, 1, [-1])).toBe(0);
      expect(event.releases).toBe(1);
      expect(tell()).toBe(false);
    }
  });
});
