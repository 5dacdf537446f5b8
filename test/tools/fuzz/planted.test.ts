import { describe, expect, test } from 'vitest';
import { HW_ERROR, type HwPort } from '../../../src/ports/hw.ts';
import type { MmioDevice } from '../../../src/ports/mmio.ts';
import { ours } from '../../../tools/conformance/qtest-pair.ts';
import { fuzz, tried } from '../../../tools/fuzz/fuzz.ts';
import type { FuzzInput, Plant, Seams } from '../../../tools/fuzz/target.ts';
import { TARGETS } from '../../../tools/fuzz/targets/index.ts';

/** Replaces one thing, whatever its seam. */
function plant<K extends keyof Seams>(seam: K, wrong: (real: Seams[K]) => Seams[K]): Plant {
  return (at, real) => (at === (seam as string) ? (wrong(real as never) as never) : real);
}

/** The IOMMU's registers with something wrong about writes. */
const writes = (wrong: (offset: number, size: number, lo: number) => boolean): Plant =>
  plant('window', (real: MmioDevice) => ({
    name: real.name,
    bytes: real.bytes,
    read: (offset, size) => real.read(offset, size),
    read64: (offset, out) => real.read64(offset, out),
    write: (offset, size, lo, hi) => {
      if (!wrong(offset, size, lo)) real.write(offset, size, lo, hi);
    },
  }));

const throws = (what: string): never => {
  throw new TypeError(what);
};

/** Doorbells of the command queue: CMDQ_PROD, IQT. */
const DOORBELLS = [0x98, 0x88];

/** A physical unit that never hears of some invalidations of pages: TLBI_NH_VA, PASID-based IOTLB descriptors. */
class Deaf implements HwPort {
  done = 0;
  error: number = HW_ERROR.NONE;
  pending = 0;
  readonly #hw: HwPort;

  constructor(hw: HwPort) {
    this.#hw = hw;
  }
  readRegister(offset: number): bigint {
    return this.#hw.readRegister(offset);
  }
  writeRegister(offset: number, value: bigint): void {
    this.#hw.writeRegister(offset, value);
  }
  writeEntry(table: number, entry: number, word: number, lo: number, hi: number): void {
    this.#hw.writeEntry(table, entry, word, lo, hi);
  }
  submit(words: Int32Array, start: number, count: number): void {
    const opcode = words[start]! & 0xff;
    this.done = count;
    this.error = this.pending = 0;
    if (opcode === 0x12 || opcode === 0x36) return;
    this.#hw.submit(words, start, count);
    ({ done: this.done, error: this.error, pending: this.pending } = this.#hw);
  }
}

/** Our own machine in the place of QEMU. */
const OURS = plant('qemu', () => (_command, recorded, requests) => Promise.resolve(ours(recorded, requests)));

const PLANTED: Readonly<Record<string, { readonly wrong: Plant; readonly says: RegExp; readonly most: number }>> = {
  registers: { wrong: writes((_o, size) => size === 8), says: /a saved machine reads differently/, most: 2 },
  queues: { wrong: writes((o) => DOORBELLS.includes(o) && throws('doorbell')), says: /TypeError: doorbell/, most: 1 },
  tables: {
    wrong: plant('answer', (a) => a.replace('F_PERMISSION', 'F_ACCESS').replace(/^\[113/, '[114')),
    says: /the walkers of (smmuv3|vtd) differ/,
    most: 1,
  },
  dma: { wrong: writes((o, _s, lo) => o === 0x20 && lo !== 0 && throws('on')), says: /TypeError: on/, most: 1 },
  caches: {
    wrong: plant('hw', (hw) => new Deaf(hw)),
    says: /an access reaches what is not mapped|caches are seen/,
    most: 6,
  },
  pair: {
    wrong: plant('hw', (hw) => new Deaf(hw)),
    says: /reaches what is not mapped|went elsewhere|refused/,
    most: 8,
  },
  uapi: {
    wrong: plant('kernel', (k) => {
      k.kernel.memory.free = () => {};
      return k;
    }),
    says: /pages of a program that has ended are in use/,
    most: 5,
  },
  sockets: {
    wrong: plant('kernel', (k) => ({ ...k, test: () => null })),
    says: /a client of the server is answered otherwise/,
    most: 1,
  },
  failures: { wrong: writes((o) => DOORBELLS.includes(o) && throws('doorbell')), says: /TypeError: doorbell/, most: 1 },
  traces: {
    wrong: plant('text', (text) => (text.split('\n').length < 300 && text.length > 9000 ? throws('short') : text)),
    says: /TypeError: short/,
    most: 1,
  },
  qemu: {
    // Our own machine in the place of QEMU, which reads CMDQ_CONS and IQH as one less behind a doorbell.
    wrong: plant('qemu', () => (_command, recorded, requests) => {
      const rung = requests.findIndex((r) => /^write[lq] 0x(9050098|fed90088) 0x[1-9a-f]/.test(r));
      const replies = ours(recorded, requests).map((reply, i) =>
        rung >= 0 && i > rung && /^read[lq] 0x(905009c|fed90080)$/.test(requests[i]!) ? `${reply}!` : reply,
      );
      return Promise.resolve(replies);
    }),
    says: /QEMU answers otherwise/,
    most: 1,
  },
  cost: {
    wrong: plant('window', (real) => {
      // The first doorbell of a machine takes longer than anything may.
      let first = true;
      const slow = (offset: number): void => {
        if (!first || !DOORBELLS.includes(offset)) return;
        first = false;
        const end = process.cpuUsage().user + 40_000;
        while (process.cpuUsage().user < end);
      };
      return {
        name: real.name,
        bytes: real.bytes,
        read: (offset, size) => real.read(offset, size),
        read64: (offset, out) => real.read64(offset, out),
        write: (offset, size, lo, hi) => {
          slow(offset);
          real.write(offset, size, lo, hi);
        },
      };
    }),
    says: /one access took/,
    most: 100,
  },
};

describe('a fault that is planted', () => {
  test.each(TARGETS)(
    'is found by $name, cut, and found again in what is left',
    async (target) => {
      const { wrong, says, most } = PLANTED[target.name]!;
      const { found } = await fuzz(target, {
        seed: 11,
        plant: wrong,
        inputs: 60,
        cutting: target.name === 'cost' ? 8000 : 20_000,
      });
      expect(found?.error).toMatch(says);
      expect(found!.input.steps.length).toBeLessThanOrEqual(most);
      expect(found!.input.steps.length).toBeLessThanOrEqual(found!.before);
      // What is left fails by itself, and without the fault it does not.
      const again = JSON.parse(JSON.stringify(found!.input)) as FuzzInput;
      expect(await tried(target, again, wrong)).toMatch(says);
      const right = target.name === 'qemu' ? OURS : undefined;
      expect(await tried(target, again, right)).toBe(null);
    },
    120_000,
  );
});
