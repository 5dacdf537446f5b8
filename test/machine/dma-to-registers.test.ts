import { describe, expect, test } from 'vitest';
import { encodeDescriptor, WORK_OP } from '../../devices/endpoints/descriptor.ts';
import { DmaEngine, ENGINE } from '../../devices/endpoints/dma-engine.ts';
import { parseQemuArgs } from '../../src/lib/qemu-args/qemu-args.ts';
import { createQemuMachine, type QemuMachine } from '../../src/machine/qemu-machine.ts';
import { NO_PASID } from '../../src/ports/dma.ts';

const VTD = 0xfed9_0000;
const SMMU = 0x0905_0000;
const IQH = VTD + 0x80;
const IQT = VTD + 0x88;

/** The guest of a QEMU machine with a DMA engine in 02.0 whose BAR is at `bar`. */
class Guest {
  readonly m: QemuMachine;
  readonly engine: DmaEngine;
  readonly bar: number;
  readonly #ram: number;

  constructor(line: string, profile: string, bar: number, ram: number, timed: boolean) {
    this.m = createQemuMachine(parseQemuArgs(line), { nic: false, vga: false, profile });
    this.bar = bar;
    this.#ram = ram;
    const { clock } = this.m.vm!;
    this.engine = new DmaEngine({ integrated: true, ...(timed ? { timing: { clock, step: 10, flight: 100 } } : {}) });
    const slot = this.m.board!.plug(this.engine.fn, 0x10);
    const config = (at: number, size: number, value: number) =>
      this.m.board!.complex.configWrite(0, slot.devfn, at, size, value);
    config(0x10, 4, bar);
    config(0x14, 4, 0);
    config(4, 2, 6);
    const ats = this.engine.fn.config.findExtended(0x0f);
    if (timed) config(ats + 6, 2, 0x8000);
  }

  w(at: number, value: number): void {
    this.m.map!.write(at, 4, value | 0, 0);
  }
  w64(at: number, value: bigint): void {
    this.m.map!.write(at, 8, Number(value & 0xffff_ffffn) | 0, Number(value >> 32n) | 0);
  }
  r(at: number): number {
    this.m.map!.read(at, 4);
    return this.m.map!.lo >>> 0;
  }
  store(at: number, ...qwords: bigint[]): void {
    for (const [i, q] of qwords.entries()) this.w64(at + 8 * i, q);
  }

  /** Descriptors of the engine's ring: 4 bytes to `to`, or `bytes` of them. */
  ring(to: number, bytes = 4, pattern = 7): void {
    const at = this.#ram + 0x30_0000;
    for (let i = 0; i < 4; i++) {
      const d = { op: WORK_OP.FILL, pattern, bytes, dstLo: to, dstHi: 0, doneLo: 0, pasid: NO_PASID };
      this.m.vm!.memory.guest.writeBytes(at + 64 * i, new Uint8Array(encodeDescriptor(d).buffer));
    }
    this.w(this.bar + ENGINE.RING_LOW, at);
    this.w(this.bar + ENGINE.RING_LOG2, 2);
    this.w(this.bar + ENGINE.CONTROL, 1);
  }

  /** q35: legacy tables that map 8 MiB as they are, and 256 places in the queue. */
  translate(): void {
    const root = 0x20_0000;
    this.store(root, 0x20_1001n, 0n);
    this.store(0x20_1000 + 16 * 0x10, 0x21_0000n | 5n, (5n << 8n) | 2n);
    this.store(0x21_0000, 0x22_0003n);
    this.store(0x22_0000, 0x22_1003n);
    for (let i = 0; i < 4; i++) {
      this.store(0x22_1000 + 8 * i, BigInt(0x22_2000 + i * 4096) | 3n);
      for (let p = 0; p < 512; p++) this.store(0x22_2000 + i * 4096 + 8 * p, BigInt((i * 512 + p) * 4096) | 3n);
    }
    this.w64(VTD + 0x90, 0x10_0000n);
    this.w(VTD + 0x18, 0x0400_0000);
    this.w64(VTD + 0x20, BigInt(root));
    this.w(VTD + 0x18, 0x4400_0000);
    this.w(VTD + 0x18, 0x8400_0000);
  }

  /** Descriptor `i` of the queue is a wait that writes `data` to `to`. */
  wait(i: number, to: number, data: number): void {
    this.store(0x10_0000 + 16 * i, 0x25n | (BigInt(data) << 32n), BigInt(to));
  }
}

for (const profile of ['qemu-11.1', 'arch']) {
  const q35 = (timed = false) =>
    new Guest('-machine q35 -m 64 -device intel-iommu,device-iotlb=on', profile, 0xc000_0000, 0, timed);
  const virt = () => new Guest('-M virt,iommu=smmuv3 -m 64', profile, 0x1000_0000, 0x4000_0000, false);

  describe(`DMA into registers of QEMU's machines, ${profile}`, () => {
    test('waits aimed at their own tail end, also when the completion of a device TLB lets the queue go on', () => {
      const g = q35(true);
      g.translate();
      g.ring(0x31_0000, 0x4000);
      g.w(g.bar + ENGINE.TAIL, 1);
      g.m.advance(25);
      g.store(0x10_0000, 0x3n | (0x10n << 32n), 0x7fff_ffff_ffff_f001n);
      g.wait(1, 0x11_0000, 1);
      for (let i = 2; i < 256; i++) g.wait(i, IQT, i << 4);
      g.w(IQT, 255 << 4);
      for (const i of [0, 1]) g.wait(i, IQT, i << 4);
      g.m.advance(100_000);
      // The architecture's unit stops at the first wait that it cannot write; QEMU's signals it all the same.
      expect(g.r(IQH) >> 4).toBeGreaterThan(1);
      expect(g.r(IQT) >> 4).toBe(255);
    });

    test('a wait aimed at an engine starts it, and the engine reaches the memory it is told to, and not the unit', () => {
      const g = q35();
      g.translate();
      g.ring(0x31_0000);
      g.wait(0, g.bar + ENGINE.TAIL, 2);
      g.w(IQT, 1 << 4);
      expect([g.r(g.bar + ENGINE.HEAD), g.r(0x31_0000)]).toEqual([2, 0x7]);
      expect(g.r(IQH) >> 4).toBe(1);
    });

    test('an engine of virt and of q35 that writes its own TAIL or RESET ends its ring with errors', () => {
      for (const g of [q35(), virt()]) {
        for (const [register, pattern] of [
          [ENGINE.TAIL, 2],
          [ENGINE.CONTROL, 2],
        ] as const) {
          g.ring(g.bar + register, 4, pattern);
          g.w(g.bar + ENGINE.ERRORS, 0);
          const head = g.r(g.bar + ENGINE.HEAD);
          g.w(g.bar + ENGINE.TAIL, (head + 1) & 3);
          expect([g.r(g.bar + ENGINE.HEAD), g.r(g.bar + ENGINE.CONTROL)]).toEqual([(head + 1) & 3, 1]);
        }
      }
    });

    test('no device writes the configuration space: it could reset whoever is at work', () => {
      const g = q35();
      g.translate();
      // PCIEXBAR: the ECAM at 0xb0000000.
      g.m.portWrite(0xcf8, 4, 0x8000_0060);
      g.m.portWrite(0xcfc, 4, 0xb000_0001 | 0);
      g.wait(0, 0xb000_0000 + (0x10 << 12) + 0x3c, 0x55);
      g.w(IQT, 1 << 4);
      expect(g.r(0xb000_0000 + (0x10 << 12) + 0x3c) & 0xff).toBe(0);
    });

    test('an event queue of virt in the registers of an engine ends with the engine', () => {
      const g = virt();
      const w = (at: number, value: number) => g.w(SMMU + at, value);
      // One stream entry that is not valid: every access is an event.
      w(0x80, 0x4020_0000 | 0);
      w(0x88, 8);
      w(0xa0, g.bar | 2 | 0);
      w(0xa4, 0);
      w(0x20, 5);
      g.ring(0x5000_0000);
      g.w(g.bar + ENGINE.TAIL, 3);
      expect(g.r(g.bar + ENGINE.STATE) & ~2).toBe(0);
      expect(g.r(SMMU + 0x60) & 4).toBe(4);
    });
  });
}
