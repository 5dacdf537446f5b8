import { describe, expect, test } from 'vitest';
import { encodeDescriptor, WORK_OP } from '../../devices/endpoints/descriptor.ts';
import { DmaEngine, ENGINE } from '../../devices/endpoints/dma-engine.ts';
import { RESULT, TESTDEV } from '../../devices/endpoints/iommu-testdev.ts';
import { RamDisk } from '../../devices/endpoints/nvme/disk.ts';
import { NvmeFunction } from '../../devices/endpoints/nvme/function.ts';
import { parseQemuArgs } from '../../src/lib/qemu-args/qemu-args.ts';
import { createQemuMachine } from '../../src/machine/qemu-machine.ts';
import { NO_PASID } from '../../src/ports/dma.ts';

/** Requests of functions that one access of the guest may set in motion. */
const MOST_REQUESTS = 2200;
const LINES = ['-machine q35 -m 64 -device intel-iommu', '-M virt,iommu=smmuv3 -m 64'] as const;

/** A machine of QEMU with an engine, an NVMe and the test device, and how many requests each access of its guest caused. */
function machine(line: string) {
  const q35 = line.includes('q35');
  const ram = q35 ? 0 : 0x4000_0000;
  const bars = q35 ? 0xc000_0000 : 0x1000_0000;
  const m = createQemuMachine(parseQemuArgs(line), { nic: false, vga: false });
  const board = m.board!;
  const engine = new DmaEngine({ integrated: true });
  const nvme = new NvmeFunction({ disk: new RamDisk(1 << 20), integrated: true });
  board.plug(engine.fn, 0x10);
  board.plug(nvme.fn, 0x18);
  board.plugTestdev(0x20);
  const config = (d: number, at: number, size: number, v: number) => board.complex.configWrite(0, d, at, size, v);
  const bar = [0x10, 0x18, 0x20].map((d, i) => {
    config(d, 0x10, 4, bars + i * 0x10_0000);
    if (d !== 0x20) config(d, 0x14, 4, 0);
    config(d, 4, 2, 6);
    return bars + i * 0x10_0000;
  });
  const caused: number[] = [];
  let requests = 0;
  board.complex.onMessage = () => void requests++;
  const counted = <T>(access: () => T): T => {
    requests = 0;
    const value = access();
    caused.push(requests);
    return value;
  };
  const w = (at: number, value: number) => counted(() => void m.map!.write(at, 4, value | 0, 0));
  const r = (at: number) =>
    counted(() => {
      m.map!.read(at, 4);
      return m.map!.lo >>> 0;
    });
  return { m, ram, bar, caused, w, r, nvme, memory: m.vm!.memory.guest };
}

describe.each(LINES)('what one access sets in motion on %s', (line) => {
  test('is a part of a copy of a megabyte into addresses of the bus that nobody answers, four bytes at a time', () => {
    const { m, ram, bar, w, memory } = machine(line);
    const at = bar[0]!;
    const d = { op: WORK_OP.COPY, bytes: 1 << 20, dstLo: at + 0x8000, srcLo: ram + 0x10_0000, pasid: NO_PASID };
    memory.writeBytes(ram + 0x20_0000, new Uint8Array(encodeDescriptor(d).buffer));
    w(at + ENGINE.RING_LOW, ram + 0x20_0000);
    w(at + ENGINE.RING_LOG2, 4);
    w(at + ENGINE.CONTROL, 1);
    const { space } = m.vm!.hostMemory;
    const before = space.windowed;
    w(at + ENGINE.TAIL, 1);
    expect(space.windowed - before).toBeLessThan(6000);
    // A hole of q35 aborts the first of them.
    if (line.includes('virt')) expect(space.windowed - before).toBeGreaterThan(1000);
  });

  test.each([
    ['polls it', false],
    ['lets time pass', true],
  ])('is a part of a full ring of an engine, and all of it is done when the guest %s', (_, waits) => {
    const { m, ram, bar, caused, w, r, memory } = machine(line);
    const at = bar[0]!;
    for (let i = 0; i < 256; i++) {
      const d = { op: WORK_OP.FILL, pattern: 0x100 + i, bytes: 1 << 18, dstLo: ram + 0x10_0000 };
      memory.writeBytes(ram + 0x20_0000 + 64 * i, new Uint8Array(encodeDescriptor(d).buffer));
    }
    w(at + ENGINE.RING_LOW, ram + 0x20_0000);
    w(at + ENGINE.RING_LOG2, 8);
    w(at + ENGINE.CONTROL, 1);
    w(at + ENGINE.TAIL, 200);
    expect([r(at + ENGINE.HEAD) < 50, r(at + ENGINE.STATE) & 1]).toEqual([true, 1]);
    if (waits) m.advance(100_000);
    else for (let i = 0; i < 1000 && (r(at + ENGINE.STATE) & 1) !== 0; i++);
    expect([r(at + ENGINE.HEAD), r(at + ENGINE.STATE), r(at + ENGINE.ERRORS)]).toEqual([200, 0, 0]);
    expect(r(ram + 0x10_0000)).toBe(0x100 + 199);
    expect(Math.max(...caused)).toBeLessThan(MOST_REQUESTS);
  });

  test('is a part of what an engine writes into the doorbells of another function', () => {
    const { ram, bar, caused, w, r, memory } = machine(line);
    const at = bar[0]!;
    for (let i = 0; i < 16; i++) {
      const d = { op: WORK_OP.FILL, pattern: 1, bytes: 0x1000, dstLo: bar[1]! + 0x1000 };
      memory.writeBytes(ram + 0x20_0000 + 64 * i, new Uint8Array(encodeDescriptor(d).buffer));
    }
    w(at + ENGINE.RING_LOW, ram + 0x20_0000);
    w(at + ENGINE.RING_LOG2, 4);
    w(at + ENGINE.CONTROL, 1);
    w(at + ENGINE.TAIL, 15);
    for (let i = 0; i < 100 && (r(at + ENGINE.STATE) & 1) !== 0; i++);
    expect(r(at + ENGINE.HEAD)).toBe(15);
    // A page of them is a thousand register accesses.
    expect(caused.filter((n) => n > 0).length).toBeGreaterThan(1);
  });

  test('is a part of a trigger of the test device: RESULT is busy until it is over, and then what it always was', () => {
    const { ram, bar, caused, w, r } = machine(line);
    const at = bar[2]!;
    const trigger = (iova: number, length: number) => {
      w(at + TESTDEV.IOVA_LOW, iova % 2 ** 32);
      w(at + TESTDEV.IOVA_HIGH, Math.floor(iova / 2 ** 32));
      w(at + TESTDEV.GPA_LOW, ram + 0x10_0000);
      w(at + TESTDEV.LEN, length);
      w(at + TESTDEV.DOORBELL, 1);
      r(at + TESTDEV.TRIGGER);
      let reads = 1;
      let result = r(at + TESTDEV.RESULT);
      for (; result === RESULT.BUSY && reads < 10_000; reads++) result = r(at + TESTDEV.RESULT);
      return { result, reads };
    };
    expect(trigger(ram + 0x10_0000, 4)).toEqual({ result: RESULT.OK, reads: 1 });
    expect(trigger(ram + 0x10_0000, 0x1_0000)).toEqual({ result: RESULT.OK, reads: 1 });
    expect(trigger(2 ** 40, 0x1000).reads).toBe(1);
    const large = trigger(ram + 0x10_0000, 0x300_0000);
    expect([large.result, large.reads > 10]).toEqual([RESULT.OK, true]);
    expect([RESULT.WRITE_FAILED, RESULT.READ_FAILED]).toContain(trigger(ram + 0x10_0000, 0xffff_ffff).result);
    expect(trigger(2 ** 40, 0x100_0000).result).toBe(RESULT.WRITE_FAILED);
    expect(Math.max(...caused)).toBeLessThan(MOST_REQUESTS);
  });

  test('is a part of the commands of an NVMe queue, in order', () => {
    const { ram, bar, caused, w, r, nvme, memory } = machine(line);
    const at = bar[1]!;
    const [ASQ, ACQ, CQ, SQ, LIST, DATA] = [0x30, 0x31, 0x40, 0x60, 0x70, 0x80].map((p) => ram + p * 0x1_0000);
    w(at + 0x24, 0x000f_000f);
    w(at + 0x28, ASQ!);
    w(at + 0x30, ACQ!);
    w(at + 0x14, 0x46_0001);
    const put = (to: number, ...words: number[]) => {
      for (const [i, x] of words.entries()) memory.store32(to + 4 * i, x | 0);
    };
    const entries = 255;
    put(ASQ!, 5 | (1 << 16), 0, 0, 0, 0, 0, CQ!, 0, 0, 0, (entries << 16) | 1, 1);
    put(ASQ! + 64, 1 | (2 << 16), 0, 0, 0, 0, 0, SQ!, 0, 0, 0, (entries << 16) | 1, (1 << 16) | 1);
    w(at + 0x1000, 2);
    expect(nvme.controller.commands).toBe(2);
    for (let i = 0; i < 32; i++) put(LIST! + 8 * i, DATA! + 4096 * (i + 1), 0);
    for (let i = 0; i < 200; i++)
      put(SQ! + 64 * i, 2 | (i << 16), 1, 0, 0, 0, 0, DATA!, 0, LIST!, 0, i, 0, 255, 0, 0, 0);
    w(at + 0x1008, 200);
    expect(nvme.controller.commands - 2).toBeLessThan(100);
    for (let i = 0; i < 1000 && nvme.controller.commands < 202; i++) r(at + 0x1c);
    const ids = Array.from({ length: 200 }, (_, i) => {
      memory.load32(CQ! + 16 * i + 12);
      return memory.lo & 0xffff;
    });
    expect(ids).toEqual(Array.from({ length: 200 }, (_, i) => i));
    expect(Math.max(...caused)).toBeLessThan(MOST_REQUESTS);
  });
});
