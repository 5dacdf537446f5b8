import { PciWindowSpace } from '../../../bus/decode.ts';
import { RootComplex } from '../../../bus/root-complex.ts';
import { encodeDescriptor, WORK_OP, WORK_STATUS } from '../../../devices/endpoints/descriptor.ts';
import { DmaEngine, ENGINE } from '../../../devices/endpoints/dma-engine.ts';
import { GuestMemory, type GuestProgram } from '../../../guest-fixtures/programs/program.ts';
import { Smmuv3Program } from '../../../guest-fixtures/programs/smmuv3.ts';
import { VtdProgram } from '../../../guest-fixtures/programs/vtd.ts';
import { portsOf, putBehind } from '../../../src/machine/behind-unit.ts';
import { windowOf } from '../../../src/machine/physical-map.ts';
import type { IommuUnit } from '../../../src/machine/unit.ts';
import { Vm } from '../../../src/machine/vm.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { BesideUnit, firstUnit } from '../beside-unit.ts';
import { Finding, type FuzzInput, type FuzzTarget, type Plant, type Step } from '../target.ts';

const RAM = 0x4000_0000;
const RAM_BYTES = 0x100_0000;
const DATA = RAM + 0xc0_0000;
const BARS = 0x3000_0000;
const BARS_BYTES = 0x10_0000;
const VA = 0x2000_0000;
const CONTROL = 0x1000_0000;
const INPUTS = 4;
const PAGES = 8;
const SPACES = [-1, 2] as const;
/** Page number that stands for the registers of the VM's other engine. */
const PEER = PAGES;

interface Engine {
  readonly engine: DmaEngine;
  readonly rid: number;
  readonly page: number;
  tail: number;
}

/** One of the two VMs: its memory, its program, two engines. */
class Side {
  readonly vm: Vm;
  readonly guest: GuestProgram;
  readonly engines: Engine[] = [];
  /** What is mapped, by engine, space and page. */
  readonly mapped = new Map<string, number>();
  readonly #complex: RootComplex;
  readonly #bars: number;

  constructor(index: number, vm: Vm, unit: IommuUnit, complex: RootComplex, kind: string) {
    this.vm = vm;
    this.#complex = complex;
    const root = complex.addRoot(index, portsOf(vm, unit));
    const report = (error: unknown) => {
      throw error;
    };
    putBehind(vm, { complex, root, unit, doorbell: -1, report });
    this.#bars = BARS + index * BARS_BYTES;
    const bars = new PciWindowSpace(complex, { base: this.#bars, bytes: BARS_BYTES, unclaimed: 0 });
    vm.addWindow(this.#bars, BARS_BYTES, windowOf(bars));
    const memory = new GuestMemory(vm.memory.guest, RAM);
    this.guest =
      kind === 'smmuv3' ? new Smmuv3Program(unit.window, memory, { ssidBits: 8 }) : new VtdProgram(unit.window, memory);
    for (const devfn of [0x10, 0x18]) this.#plug(index, root.bus, devfn);
  }

  #plug(number: number, bus: Parameters<RootComplex['plug']>[0], devfn: number): void {
    const engine = new DmaEngine({ integrated: true });
    this.#complex.plug(bus, devfn, engine.fn);
    const i = this.engines.length;
    const rid = (number << 8) | devfn;
    const page = DATA + 0x10_0000 + i * 0x1000;
    this.engines.push({ engine, rid, page, tail: 0 });
    const config = (at: number, size: number, value: number) =>
      this.#complex.configWrite(number, devfn, at, size, value);
    config(0x10, 4, this.#bars + i * 0x4000);
    config(0x14, 4, 0);
    config(4, 2, 6);
    const { config: c } = engine.fn;
    config(c.findExtended(0x1b) + 6, 2, 1);
    config(c.findExtended(0x0f) + 6, 2, 0x8000);
    config(c.findExtended(0x13) + 12, 4, 32);
    config(c.findExtended(0x13) + 4, 2, 1);
    this.guest.function(rid, SPACES);
    for (const pasid of SPACES) this.guest.map(rid, pasid, CONTROL, page);
    const register = (at: number, value: number) => engine.fn.barWrite(0, at, 4, value);
    register(ENGINE.RING_LOW, CONTROL);
    register(ENGINE.RING_LOG2, 4);
    register(ENGINE.CONTROL, 5);
  }

  /** What page number `n` of the side is, guest-physical. */
  place(engine: number, n: number): number {
    return n === PEER ? this.#bars + (1 - engine) * 0x4000 + 0x800 : DATA + n * 4096;
  }

  load(gpa: number): number {
    this.vm.memory.guest.load32(gpa);
    return this.vm.memory.guest.lo;
  }

  /** Fills 4 bytes. @returns the status; NONE: it waits for something. */
  fill(e: Engine, pasid: number, va: number, pattern: number, ask: boolean): number {
    const done = e.page + 0x800;
    this.vm.memory.guest.store32(done, WORK_STATUS.NONE);
    const d = { op: WORK_OP.FILL, pattern, bytes: 4, dstLo: va | 0, pasid, ask, doneLo: CONTROL + 0x800 };
    this.vm.memory.guest.writeBytes(e.page + e.tail * 64, new Uint8Array(encodeDescriptor(d).buffer));
    e.tail = (e.tail + 1) & 15;
    e.engine.fn.barWrite(0, ENGINE.TAIL, 4, e.tail);
    return this.load(done);
  }
}

/** Two VMs, one physical IOMMU, messages that take time. */
class Pair {
  readonly sides: Side[] = [];
  readonly #clock: Vm['clock'];
  #pattern = 0;

  constructor(input: FuzzInput, plant: Plant) {
    const kind = input.config.kind === 'vtd' ? 'vtd' : 'smmuv3';
    const ram = [{ base: RAM, bytes: RAM_BYTES }];
    const first = new Vm({ ram });
    const second = new Vm({ ram, beside: first });
    this.#clock = first.clock;
    const latency = { invalidate: Number(input.config.latency), completion: Number(input.config.latency), response: 5 };
    const complex = new RootComplex({ memory: first.hostMemory.space, irq: null, clock: first.clock, latency });
    const unit = firstUnit(kind, first, (hw) => plant('hw', hw));
    unit.endpoints.to = complex.everywhere;
    this.sides.push(new Side(0, first, unit, complex, kind));
    this.sides.push(new Side(1, second, new BesideUnit(second, unit), complex, kind));
    for (const side of this.sides) this.#sync(side);
  }

  /** Rings, and lets time pass until everything has completed. */
  #sync(side: Side): void {
    for (let done = side.guest.sync(), n = 0; !done; n++) {
      if (n === 1000) throw new Finding('an invalidation did not complete');
      this.#clock.advance(50);
      done = side.guest.synced();
    }
  }

  #clear(side: Side, e: number, s: number, n: number): void {
    if (!side.mapped.delete(`${e} ${s} ${n}`)) return;
    const { rid } = side.engines[e]!;
    side.guest.unmap(rid, SPACES[s]!, VA + n * 4096);
    side.guest.invalidate(rid, SPACES[s]!, VA + n * 4096);
    this.#sync(side);
  }

  #map(side: Side, e: number, s: number, n: number, page: number): void {
    this.#clear(side, e, s, n);
    side.guest.map(side.engines[e]!.rid, SPACES[s]!, VA + n * 4096, side.place(e, page) & ~0xfff);
    side.mapped.set(`${e} ${s} ${n}`, page);
  }

  /** A fill that waits for nothing reaches exactly what its VM has mapped. */
  #write(side: Side, e: number, s: number, n: number, ask: boolean): void {
    const unit = side.engines[e]!;
    if (unit.engine.unit.busy) return;
    const pattern = this.#next(side);
    const status = side.fill(unit, SPACES[s] === -1 ? NO_PASID : SPACES[s]!, VA + n * 4096 + 0x10, pattern, ask);
    const page = side.mapped.get(`${e} ${s} ${n}`);
    if (page === undefined) {
      if (status === WORK_STATUS.SUCCESS) throw new Finding('an access reaches what is not mapped');
      if (status === WORK_STATUS.NONE && !unit.engine.unit.busy) throw new Finding('work ended without a status');
      return;
    }
    if (status !== WORK_STATUS.SUCCESS) throw new Finding(`an access is refused that is mapped\nstatus ${status}`);
    if (page !== PEER && side.load(side.place(e, page) + 0x10) !== pattern)
      throw new Finding('an access went elsewhere');
  }

  /** Patterns of a side are in no memory of the other. */
  #next(side: Side): number {
    return ((0x5a + this.sides.indexOf(side)) << 24) | (this.#pattern++ & 0xff_ffff);
  }

  /** The guest takes its page requests, maps some of them, and answers all. */
  #answer(side: Side, e: number, grant: boolean): void {
    for (const q of side.guest.requests()) {
      const n = Math.floor((q.address - VA) / 4096);
      const s = (SPACES as readonly number[]).indexOf(q.pasid);
      const who = side.engines.findIndex((x) => x.rid === q.sid);
      if (who < 0) throw new Finding('a VM sees page requests of another');
      if (grant && n >= 0 && n < INPUTS && s >= 0) this.#map(side, who, s, n, e);
      if (q.last) side.guest.respond(q, grant);
    }
    this.#sync(side);
    this.#clock.advance(100);
  }

  step(step: Step): void {
    const side = this.sides[Number(step[1]) & 1]!;
    const [e, s, n] = [Number(step[2]) & 1, Number(step[3]) & 1, Number(step[4]) % INPUTS] as const;
    const page = Number(step[5] ?? 0) % (PAGES + 1);
    if (step[0] === 'map') this.#map(side, e, s, n, page);
    else if (step[0] === 'unmap') this.#clear(side, e, s, n);
    else if (step[0] === 'write') this.#write(side, e, s, n, false);
    else if (step[0] === 'ask') this.#write(side, e, s, n, true);
    else if (step[0] === 'answer') this.#answer(side, page % PAGES, s === 1);
    else if (step[0] === 'time') this.#clock.advance(10 * n);
    else throw new Error(`no such step: ${step[0]}`);
    side.guest.faults();
  }

  check(): void {
    for (const [i, side] of this.sides.entries()) {
      const foreign = 0x5a + (1 - i);
      for (const { backing } of side.vm.memory.guest.ram()) {
        const words = backing.words();
        for (let at = (DATA - RAM) / 4; at < words.length; at++)
          if (words[at]! >>> 24 === foreign) throw new Finding("a VM's data is in the memory of another");
      }
    }
  }
}

/** Two VMs that share a physical IOMMU. */
export const pairTarget: FuzzTarget = {
  name: 'pair',
  summary:
    'two VMs behind one physical IOMMU, ATCs with latencies, page requests, peer-to-peer: each reaches its own only',
  length: 80,
  generate(rnd, length) {
    const steps = Array.from({ length }, (): Step => {
      const at = [rnd.below(2), rnd.below(2), rnd.below(2), rnd.below(INPUTS)] as const;
      const what = rnd.below(100);
      if (what < 30) return ['map', ...at, rnd.below(PAGES + 1)];
      if (what < 45) return ['unmap', ...at];
      if (what < 75) return ['write', ...at];
      if (what < 85) return ['ask', ...at];
      return what < 95 ? ['answer', ...at, rnd.below(PAGES)] : ['time', ...at];
    });
    return { config: { kind: rnd.chance(50) ? 'smmuv3' : 'vtd', latency: rnd.pick([0, 10, 100]) }, steps };
  },
  run(input, plant) {
    const pair = new Pair(input, plant);
    for (const step of input.steps) pair.step(step);
    pair.check();
    return {};
  },
};
