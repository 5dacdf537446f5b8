import { encodeDescriptor } from '../../devices/endpoints/descriptor.ts';
import { DmaEngine, ENGINE } from '../../devices/endpoints/dma-engine.ts';
import type { FailureOptions } from '../../src/lib/inject/failure-options.ts';
import { parseQemuArgs } from '../../src/lib/qemu-args/qemu-args.ts';
import { createQemuMachine, type QemuMachine } from '../../src/machine/qemu-machine.ts';
import { Vm } from '../../src/machine/vm.ts';
import { AT, NO_PASID } from '../../src/ports/dma.ts';
import { EXT, SRIOV_CAP } from '../../src/spec/pcie/capabilities.ts';
import { PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import { PAGE } from '../../src/spec/vtd/registers.ts';
import { Random } from '../oracle/random.ts';
import { Stopwatch } from './dearest.ts';
import type { GuestSteps, Places } from './guests/guest.ts';
import { Smmuv3GuestSteps } from './guests/smmuv3.ts';
import { VtdGuestSteps } from './guests/vtd.ts';
import { Finding, type FuzzInput, type Plant, type Step } from './target.ts';

/** Devices and functions of the engines. */
const DEVFNS = [0x10, 0x18] as const;
/** What lies in the memory of the neighbour, and nowhere else. */
const SECRET = 0x5ec7_e75e;
const NEIGHBOUR_BYTES = 0x4000;
/** Tables and queues of a guest lie in its first bytes; rings of engines behind. */
const GUEST_BYTES = 0x6_0000;
const RING = 0x50_0000;
const RING_LOG2 = 4;
/** Virtual functions of the second engine. */
const VIRTUAL = 200;

/** Command lines of the two boards, with the IOMMU as different guests find it. */
export const LINES = [
  '-M virt,iommu=smmuv3 -m 16',
  '-M virt -device arm-smmuv3,primary-bus=pcie.0,stage=2 -m 16',
  '-M virt -device arm-smmuv3,primary-bus=pcie.0,stage=nested -m 16',
  '-machine q35 -m 16 -device intel-iommu',
  '-machine q35 -m 16 -device intel-iommu,caching-mode=on,device-iotlb=on',
  '-machine q35 -m 16 -device intel-iommu,device-iotlb=on',
  '-machine q35 -m 16 -device intel-iommu,scalable-mode=on,fsts=on,svm=on,pasid-bits=20,device-iotlb=on',
  '-machine q35 -m 16 -device intel-iommu,scalable-mode=on',
] as const;

/** Where a board has what a guest uses. */
export function placesOf(line: string): Places & { readonly bars: number } {
  const arm = line.includes('virt');
  const iommu = !arm ? 0xfed9_0000 : line.includes('-device') ? 0xc00_0000 : 0x905_0000;
  return {
    ram: arm ? 0x4000_0000 : 0,
    bytes: GUEST_BYTES,
    iommu,
    rids: [...DEVFNS, 0, 8],
    bars: arm ? 0x1000_0000 : 0xc000_0000,
  };
}

/** ['sweep', engine, pasid, lo, hi, stride, count]: accesses one behind the other. */
function* sweep(s: Step): Generator<Step> {
  const n = (i: number): number => Number(s[i] ?? 0);
  for (let i = 0; i < n(6); i++) {
    const at = (n(3) >>> 0) + i * n(5);
    yield ['d', n(1), n(2), at | 0, n(4) + Math.floor(at / 2 ** 32), 1 + (i % 3), 0];
  }
}

/** What goes on later does so a nanosecond apart: each is an occasion of its own. */
function* nanoseconds(s: Step): Generator<Step> {
  for (let n = Math.abs(Number(s[1])); n > 0; n--) yield ['t', 1];
}

/** Makes a guest's steps for a board. */
export function guestOf(line: string, rnd: Random): GuestSteps {
  const places = placesOf(line);
  if (line.includes('virt')) return new Smmuv3GuestSteps(rnd, places);
  return new VtdGuestSteps(rnd, places, line.includes('scalable'), line.includes('caching') ? 1 : 100);
}

/**
 * A QEMU machine with two DMA engines, played by steps. Another VM shares its host; nothing of that may be read or
 * written. Throws whatever a handler throws.
 */
export class World {
  readonly machine: QemuMachine;
  /** What the guest read, in order. */
  readonly seen: number[] = [];
  readonly #arm: boolean;
  readonly #p: ReturnType<typeof placesOf>;
  readonly #engines: DmaEngine[] = [];
  readonly #tails = [0, 0];
  readonly #neighbour: Vm;
  readonly #canary: number;
  readonly #watch = new Stopwatch();
  readonly #window: { write(at: number, size: number, lo: number, hi: number): void };

  constructor(input: FuzzInput, plant: Plant, o: { failures?: FailureOptions } = {}) {
    const { line, profile, timed, fill } = input.config as Record<string, string | number>;
    const text = String(line);
    this.#arm = text.includes('virt');
    this.#p = placesOf(text);
    this.machine = createQemuMachine(parseQemuArgs(text), {
      nic: false,
      vga: false,
      profile: String(profile),
      report: (e) => {
        throw e;
      },
      ...(o.failures === undefined ? {} : { failures: o.failures }),
    });
    const { vm, board, map } = this.machine;
    const { failures } = vm!;
    if (failures !== null) failures.on = false;
    for (const [i, devfn] of DEVFNS.entries()) {
      const timing = timed === 1 ? { timing: { clock: vm!.clock, step: 10, flight: 100 } } : {};
      const virtual = devfn === DEVFNS[1] ? { virtualFunctions: VIRTUAL } : {};
      const engine = new DmaEngine({ integrated: true, ...timing, ...virtual });
      this.#engines.push(engine);
      board!.plug(engine.fn, devfn);
      this.#configure(devfn, i);
    }
    this.#neighbour = new Vm({ ram: [{ base: 0x4000_0000, bytes: NEIGHBOUR_BYTES }], beside: vm! });
    this.#canary = vm!.hostMemory.allocate(4);
    this.#secret();
    const real = map!.device(this.#p.iommu)!;
    const window = plant('window', real);
    this.#window = {
      write: (at, size, lo, hi) => {
        const { iommu } = this.#p;
        if (window !== real && at >= iommu && at < iommu + real.bytes) window.write(at - iommu, size, lo, hi);
        else map!.write(at, size, lo, hi);
      },
    };
    const guest = guestOf(text, new Random(Number(fill)));
    guest.fill((gpa, lo, hi) => void vm!.memory.guest.store64(gpa, lo, hi));
    if (failures !== null) failures.on = true;
  }

  #configure(devfn: number, index: number): void {
    const { complex } = this.machine.board!;
    const { config } = this.#engines[index]!.fn;
    const write = (at: number, size: number, value: number) => complex.configWrite(0, devfn, at, size, value);
    write(0x10, 4, this.#p.bars + index * 0x10_0000);
    write(0x14, 4, 0);
    write(4, 2, 6);
    for (const [id, at, size, value] of [
      [0x0f, 6, 2, 0x8000],
      [0x1b, 6, 2, 1],
      [0x13, 12, 4, 32],
      [0x13, 4, 2, 1],
    ] as const) {
      const found = config.findExtended(id);
      if (found !== 0) write(found + at, size, value);
    }
    const engine = this.#engines[index]!;
    engine.fn.barWrite(0, ENGINE.RING_LOW, 4, this.#p.ram + RING + index * 0x1000);
    engine.fn.barWrite(0, ENGINE.RING_LOG2, 4, RING_LOG2);
    engine.fn.barWrite(0, ENGINE.CONTROL, 4, 5);
  }

  #secret(): void {
    const { space } = this.machine.vm!.hostMemory;
    for (let at = 0; at < 4 * 4096; at += 4) space.store32(this.#canary + at, SECRET);
    for (let at = 0; at < NEIGHBOUR_BYTES; at += 4) this.#neighbour.memory.guest.store32(0x4000_0000 + at, SECRET);
  }

  /** @throws Finding the neighbour's or the kernel's memory was written, or its contents are in the guest's. */
  check(): void {
    const { hostMemory, memory } = this.machine.vm!;
    const same = (space: { load32(at: number): boolean; lo: number }, from: number, bytes: number): boolean => {
      for (let at = from; at < from + bytes; at += 4) if (!space.load32(at) || space.lo !== SECRET) return false;
      return true;
    };
    if (!same(hostMemory.space, this.#canary, 4 * 4096)) throw new Finding("the kernel's own memory was written");
    if (!same(this.#neighbour.memory.guest, 0x4000_0000, NEIGHBOUR_BYTES))
      throw new Finding('memory of another VM was written');
    for (const { backing } of memory.guest.ram())
      if (backing.words().includes(SECRET)) throw new Finding('memory of another VM was read');
  }

  /** Runs one step. @returns milliseconds its dearest access took of the processor. @throws see `step`. */
  timed(s: Step): number {
    let most = 0;
    for (const one of s[0] === 'sweep' ? sweep(s) : s[0] === 't' ? nanoseconds(s) : [s]) {
      this.#watch.start();
      this.step(one);
      most = Math.max(most, this.#watch.ms);
    }
    return most;
  }

  /** Runs one step. @throws what a handler throws; Finding. */
  step(s: Step): void {
    const { map, vm, board } = this.machine;
    const n = (i: number): number => Number(s[i] ?? 0);
    switch (s[0]) {
      case 'w':
        this.#window.write(n(1), n(2), n(3), n(4));
        return;
      case 'r':
        map!.read(n(1), n(2));
        this.seen.push(map!.lo >>> 0, n(2) === 8 ? map!.hi >>> 0 : 0);
        return;
      case 't':
        vm!.clock.advance(Math.abs(n(1)));
        return;
      case 'fill':
        for (let i = 0; i < n(2); i++)
          vm!.memory.guest.store64(n(1) + i * n(3), (n(4) + n(6) * (i % Math.max(n(7), 1))) | 0, n(5));
        return;
      case 'sweep':
        for (const one of sweep(s)) this.step(one);
        return;
      case 'vf':
        this.#virtual(n(1), n(2) === 1);
        return;
      case 'ack':
        this.#acknowledge();
        return;
      case 'reset':
        this.machine.reset();
        for (const [i, devfn] of DEVFNS.entries()) this.#configure(devfn, i);
        return;
      case 'e':
        this.#descriptor(s);
        return;
      case 'd': {
        const link = board!.complex.link(board!.complex.slotOf(this.#engines[n(1) & 1]!.fn)!)!;
        const bytes = new Uint8Array(4);
        const at = n(6) === 2 ? AT.TRANSLATED : AT.UNTRANSLATED;
        if ((n(5) & 2) !== 0) link.write(n(2), n(3) | 0, n(4) | 0, n(5), at, bytes, 0, 4);
        else link.read(n(2), n(3) | 0, n(4) | 0, n(5) | 1, at, bytes, 0, 4);
        return;
      }
      case 'p':
        this.#link(n(1)).pageRequest(n(2), n(3) & ~0xfff, n(4) | 0, 3, n(5) & 511, n(6) === 1);
        return;
      case 'c':
        this.#link(n(1)).invalidateCompletion(n(2) | 0, n(3) & 7);
        return;
      default:
        throw new Error(`no such step: ${s[0]}`);
    }
  }

  /** NumVFs, then VF Enable, of the second engine. */
  #virtual(count: number, on: boolean): void {
    const { complex } = this.machine.board!;
    const [, devfn] = DEVFNS;
    const at = this.#engines[1]!.fn.config.findExtended(EXT.SRIOV);
    complex.configWrite(0, devfn, at + SRIOV_CAP.NUM, 2, count);
    complex.configWrite(0, devfn, at + SRIOV_CAP.CONTROL, 2, on ? SRIOV_CAP.ENABLE : 0);
  }

  #link(engine: number) {
    const { complex } = this.machine.board!;
    return complex.link(complex.slotOf(this.#engines[engine & 1]!.fn)!)!;
  }

  /** ['e', engine, op, dstLo, dstHi, srcLo, bytes, pasid, ask, done] */
  #descriptor(s: Step): void {
    const n = (i: number): number => Number(s[i] ?? 0);
    const e = n(1) & 1;
    const words = encodeDescriptor({
      op: n(2),
      pattern: 0x5a5a_5a5a,
      bytes: n(6),
      dstLo: n(3) | 0,
      dstHi: n(4) | 0,
      srcLo: n(5) | 0,
      pasid: n(7) < 0 ? NO_PASID : n(7),
      ask: n(8) === 1,
      doneLo: n(9) | 0,
    });
    const ring = this.#p.ram + RING + e * 0x1000;
    this.machine.vm!.memory.guest.writeBytes(ring + this.#tails[e]! * 64, new Uint8Array(words.buffer));
    this.#tails[e] = (this.#tails[e]! + 1) & ((1 << RING_LOG2) - 1);
    this.#window.write(this.#p.bars + e * 0x10_0000 + ENGINE.TAIL, 4, this.#tails[e]!, 0);
  }

  #acknowledge(): void {
    const { map } = this.machine;
    const { iommu } = this.#p;
    if (this.#arm) {
      map!.read(iommu + PAGE0.GERROR.at, 4);
      this.#window.write(iommu + PAGE0.GERRORN.at, 4, map!.lo, 0);
      return;
    }
    this.#window.write(iommu + PAGE.FSTS.at, 4, -1, 0);
    this.#window.write(iommu + PAGE.FRCD_HI.at, 8, 0, 0x8000_0000 | 0);
  }
}
