import fc from 'fast-check';
import { beforeEach, expect, test } from 'vitest';
import { NvmeController } from '../../../devices/endpoints/nvme/controller.ts';
import { RamDisk } from '../../../devices/endpoints/nvme/disk.ts';
import { AddressSpace, ramBacking } from '../../../src/lib/memory/address-space.ts';

/** A driver as small as a driver can be: one admin queue, one I/O queue pair of 4 entries, polled. */
class Driver {
  readonly memory = new AddressSpace();
  readonly disk = new RamDisk(1 << 20);
  readonly pins: boolean[] = [];
  readonly nvme: NvmeController;
  #tails = [0, 0];
  #heads = [0, 0];
  #phases = [1, 1];
  #cid = 0;

  readonly entries: number;

  constructor(entries = 4) {
    this.entries = entries;
    this.memory.addRam(0x10_0000, 1 << 20, ramBacking(1 << 20));
    this.nvme = new NvmeController({
      disk: this.disk,
      identity: { vendor: 0x1b36, serial: 'SER1', model: 'viommu NVMe', firmware: '1.0' },
      vectors: 2,
      dma: {
        read: (lo, hi, into, start, count) =>
          hi === 0 && this.memory.readBytes(lo >>> 0, into.subarray(start, start + count)),
        write: (lo, hi, from, start, count) =>
          hi === 0 && this.memory.writeBytes(lo >>> 0, from.subarray(start, start + count)),
      },
      interrupt: (vector, pending) => {
        this.pins[vector] = pending;
      },
    });
  }

  sq(q: number) {
    return 0x10_0000 + q * 0x2000;
  }
  cq(q: number) {
    return 0x10_1000 + q * 0x2000;
  }

  enable() {
    this.nvme.write(0x24, ((this.entries - 1) << 16) | (this.entries - 1));
    this.nvme.write(0x28, this.sq(0));
    this.nvme.write(0x30, this.cq(0));
    this.nvme.write(0x14, 0x0046_0001);
    return this.nvme.read(0x1c);
  }

  put(q: number, words: Record<number, number>) {
    const at = this.sq(q) + this.#tails[q]! * 64;
    for (let i = 0; i < 16; i++) this.memory.store32(at + i * 4, words[i] ?? 0);
    this.memory.store32(at, (words[0] ?? 0) | (++this.#cid << 16));
    this.#tails[q] = (this.#tails[q]! + 1) % this.entries;
  }
  ring(q: number) {
    this.nvme.write(0x1000 + q * 8, this.#tails[q]!);
  }
  /** The next completion: [status, dw0], or null while there is none. */
  poll(q: number): [number, number] | null {
    const at = this.cq(q) + this.#heads[q]! * 16;
    this.memory.load32(at + 12);
    const dw3 = this.memory.lo;
    if (((dw3 >>> 16) & 1) !== this.#phases[q]) return null;
    this.memory.load32(at);
    const dw0 = this.memory.lo;
    this.#heads[q] = (this.#heads[q]! + 1) % this.entries;
    if (this.#heads[q] === 0) this.#phases[q]! ^= 1;
    return [(dw3 >>> 17) & 0x7ff, dw0];
  }
  ack(q: number) {
    this.nvme.write(0x1004 + q * 8, this.#heads[q]!);
  }
  command(q: number, words: Record<number, number>): number {
    this.put(q, words);
    this.ring(q);
    const c = this.poll(q);
    this.ack(q);
    return c === null ? -1 : c[0];
  }
  io() {
    expect(this.command(0, { 0: 5, 6: this.cq(1), 10: ((this.entries - 1) << 16) | 1, 11: (1 << 16) | 3 })).toBe(0);
    expect(this.command(0, { 0: 1, 6: this.sq(1), 10: ((this.entries - 1) << 16) | 1, 11: (1 << 16) | 1 })).toBe(0);
  }
}

let d: Driver;
beforeEach(() => {
  d = new Driver();
});

const DATA = 0x14_0000;
const LIST = 0x13_0000;

test('a driver that enables, identifies and makes a queue pair finds the disk it was given', () => {
  expect(d.enable()).toBe(1);
  expect(d.command(0, { 0: 6, 6: DATA, 10: 1 })).toBe(0);
  const id = new Uint8Array(4096);
  d.memory.readBytes(DATA, id);
  expect(Buffer.from(id.subarray(24, 64)).toString().trimEnd()).toBe('viommu NVMe');
  expect(id[512]).toBe(0x66);
  expect(d.command(0, { 0: 6, 1: 1, 6: DATA, 10: 0 })).toBe(0);
  d.memory.load64(DATA);
  expect(d.memory.lo).toBe(2048);
  d.io();
  expect(d.pins).toEqual([false]);
});

test('data written with PRPs or an SGL of any shape is what is read back, and only those blocks change', () => {
  const piece = fc.integer({ min: 1, max: 9000 });
  fc.assert(
    fc.property(
      fc.record({
        lba: fc.nat(1500),
        blocks: fc.integer({ min: 1, max: 256 }),
        offset: fc.nat(1023),
        cuts: fc.array(piece),
        sgl: fc.boolean(),
      }),
      ({ lba, blocks, offset, cuts, sgl }) => {
        const d = new Driver();
        d.enable();
        d.io();
        d.disk.bytes.fill(0xee);
        const bytes = blocks * 512;
        const start = DATA + offset * 4;
        const want = Uint8Array.from({ length: bytes }, (_, i) => (i * 7 + (i >>> 8) + lba) & 0xff);
        d.memory.writeBytes(start, want);
        const where = (at: number, lb: number): Record<number, number> => {
          const words: Record<number, number> = { 1: 1, 10: lb, 12: blocks - 1 };
          if (sgl) {
            // Two segments when there is room for a second one.
            const lengths: number[] = [];
            let left = bytes;
            for (const c of cuts)
              if (left > c) {
                lengths.push(c);
                left -= c;
              }
            lengths.push(left);
            const split = lengths.length > 1 ? lengths.length >>> 1 : 0;
            let p = at;
            let slot = LIST;
            lengths.forEach((n, i) => {
              if (i === split && split > 0) {
                d.memory.store64(slot, LIST + 0x8000, 0);
                d.memory.store64(slot + 8, (lengths.length - split) * 16, 3 << 28);
                slot = LIST + 0x8000;
              }
              d.memory.store64(slot, p, 0);
              d.memory.store64(slot + 8, n, 0);
              slot += 16;
              p += n;
            });
            const first = split > 0 ? split + 1 : lengths.length;
            return { ...words, 0: 1 << 14, 6: LIST, 8: first * 16, 9: (split > 0 ? 2 : 3) << 28 };
          }
          const first = 4096 - (at % 4096);
          const pages = Math.ceil(Math.max(0, bytes - first) / 4096);
          const base = at - (at % 4096) + 4096;
          if (pages <= 1) return { ...words, 6: at, 8: base };
          // The list begins near the end of its page, so that long ones need a second page.
          let slot = LIST + 0x1000 - 64;
          for (let i = 0; i < pages; i++) {
            if (slot % 4096 === 4088 && i < pages - 1) {
              d.memory.store64(slot, LIST + 0x4000, 0);
              slot = LIST + 0x4000;
            }
            d.memory.store64(slot, base + i * 4096, 0);
            slot += 8;
          }
          return { ...words, 6: at, 8: LIST + 0x1000 - 64 };
        };
        const w = where(start, lba);
        expect(d.command(1, { ...w, 0: (w[0] ?? 0) | 1 })).toBe(0);
        expect(Buffer.from(d.disk.bytes.subarray(lba * 512, lba * 512 + bytes)).equals(Buffer.from(want))).toBe(true);
        expect(d.disk.bytes[lba * 512 + bytes] ?? 0xee).toBe(0xee);
        if (lba > 0) expect(d.disk.bytes[lba * 512 - 1]).toBe(0xee);
        d.memory.writeBytes(start, new Uint8Array(bytes));
        const r = where(start, lba);
        expect(d.command(1, { ...r, 0: (r[0] ?? 0) | 2 })).toBe(0);
        const got = new Uint8Array(bytes);
        d.memory.readBytes(start, got);
        expect(Buffer.from(got).equals(Buffer.from(want))).toBe(true);
      },
    ),
    { numRuns: 60 },
  );
});

test('a full completion queue holds commands back until the driver makes room, through many wraps', () => {
  d.enable();
  d.io();
  let done = 0;
  for (let round = 0; round < 20; round++) {
    for (let i = 0; i < 3; i++) d.put(1, { 0: 0, 1: 1 });
    d.ring(1);
    expect(d.pins[1]).toBe(true);
    for (let i = 0; i < 3; i++) {
      expect(d.poll(1)).not.toBeNull();
      done++;
    }
    expect(d.poll(1)).toBeNull();
    d.ack(1);
    expect(d.pins[1]).toBe(false);
  }
  expect(done).toBe(60);
});

test('every mistake has its own status and leaves the disk alone', () => {
  d.enable();
  d.io();
  const before = Buffer.from(d.disk.bytes);
  expect(d.command(1, { 0: 0x77, 1: 1 })).toBe(0x001);
  expect(d.command(1, { 0: 1, 1: 2 })).toBe(0x00b);
  expect(d.command(1, { 0: 1, 1: 1, 6: DATA, 10: 2048 })).toBe(0x080);
  expect(d.command(1, { 0: 1, 1: 1, 6: DATA, 11: -1 })).toBe(0x080);
  expect(d.command(1, { 0: 1, 1: 1, 6: DATA + 2 })).toBe(0x013);
  expect(d.command(1, { 0: 1, 1: 1, 6: 0x0 })).toBe(0x004);
  expect(d.command(1, { 0: 1 | (1 << 14), 1: 1, 6: DATA, 8: 511 })).toBe(0x00f);
  expect(d.command(1, { 0: 1 | (1 << 14), 1: 1, 6: DATA, 8: 512, 9: 5 << 28 })).toBe(0x011);
  expect(d.command(0, { 0: 5, 6: DATA, 10: (3 << 16) | 1, 11: 1 })).toBe(0x101);
  expect(d.command(0, { 0: 5, 6: DATA, 10: (3 << 16) | 2, 11: (2 << 16) | 3 })).toBe(0x108);
  expect(d.command(0, { 0: 5, 6: DATA, 10: 0xffff_0002 | 0, 11: 3 })).toBe(0x102);
  expect(d.command(0, { 0: 1, 6: DATA, 10: (3 << 16) | 2, 11: (7 << 16) | 1 })).toBe(0x100);
  expect(d.command(0, { 0: 4, 10: 1 })).toBe(0x10c);
  expect(d.command(0, { 0: 9, 10: 0x99 })).toBe(0x002);
  expect(Buffer.from(d.disk.bytes).equals(before)).toBe(true);
});

test('a controller whose queues cannot be read says so in CSTS and is well again after a reset', () => {
  d.nvme.write(0x28, 0x7000_0000);
  d.nvme.write(0x30, d.cq(0));
  d.nvme.write(0x24, 0x3_0003);
  d.nvme.write(0x14, 0x0046_0001);
  d.nvme.write(0x1000, 1);
  expect(d.nvme.read(0x1c) & 2).toBe(2);
  d.nvme.write(0x14, 0);
  expect(d.nvme.read(0x1c)).toBe(0);
  expect(d.enable()).toBe(1);
});

test('no sequence of register writes and queue contents throws or runs for ever', () => {
  const action = fc.record({
    offset: fc.oneof(fc.nat(0x40), fc.integer({ min: 0x1000, max: 0x1060 })),
    value: fc.integer(),
  });
  fc.assert(
    fc.property(
      fc.array(action, { maxLength: 60 }),
      fc.uint8Array({ minLength: 512, maxLength: 512 }),
      (actions, junk) => {
        const d = new Driver(64);
        for (let at = 0x10_0000; at < 0x11_0000; at += junk.length) d.memory.writeBytes(at, junk);
        d.enable();
        for (const a of actions) d.nvme.write(a.offset & ~3, a.value);
        d.nvme.load(JSON.parse(JSON.stringify(d.nvme.save())));
        expect(d.nvme.read(0x1c) & ~0xf).toBe(0);
      },
    ),
    { numRuns: 200 },
  );
});
