import type { Latency } from '../../../bus/fabric.ts';
import { RootComplex } from '../../../bus/root-complex.ts';
import type { PciBus, Slot } from '../../../bus/topology.ts';
import { encodeDescriptor, WORK_OP, WORK_STATUS } from '../../../devices/endpoints/descriptor.ts';
import { DmaEngine, ENGINE, type EngineOptions } from '../../../devices/endpoints/dma-engine.ts';
import { smmuv3Defaults as smmuDefaults } from '../../../devices/smmuv3/properties.ts';
import { vtdDefaults } from '../../../devices/vtd/properties.ts';
import { GuestMemory, type GuestProgram } from '../../../guest-fixtures/programs/program.ts';
import { Smmuv3Program, type Smmuv3ProgramOptions } from '../../../guest-fixtures/programs/smmuv3.ts';
import { VtdProgram } from '../../../guest-fixtures/programs/vtd.ts';
import { fromWords } from '../../../src/core/bits.ts';
import type { AddressSpace } from '../../../src/lib/memory/address-space.ts';
import { portsOf, putBehind } from '../../../src/machine/behind-unit.ts';
import { Smmuv3Unit } from '../../../src/machine/smmuv3-unit.ts';
import type { IommuUnit } from '../../../src/machine/unit.ts';
import { Vm } from '../../../src/machine/vm.ts';
import { VtdUnit } from '../../../src/machine/vtd-unit.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import type { Tell } from '../../../src/ports/tell.ts';
import { SeenInterrupts } from '../../bus/harness.ts';

export const RAM = 0x4000_0000;
const RAM_BYTES = 0x800_0000;
/** Guest memory from here on belongs to the tests, below to the guest program. */
export const DATA = RAM + 0x400_0000;
const DOORBELL = 0x0809_0000;

export type Kind = 'smmuv3' | 'vtd';
export const KINDS: readonly Kind[] = ['smmuv3', 'vtd'];

export interface RigOptions extends Smmuv3ProgramOptions {
  readonly latency?: Partial<Latency>;
  /** Nanoseconds a device may take for an invalidation. */
  readonly timeout?: number;
  /** Devices whose accesses stall when they fault (SMMUv3). */
  readonly stallers?: boolean;
  readonly ignoreInvalidations?: boolean;
  readonly tell?: Tell;
  /** Sees every host-physical access of a function before it happens. */
  readonly onAccess?: (hpa: number, bytes: number, write: boolean) => void;
}

/** Host memory that tells who is coming. */
function watched(space: AddressSpace, see: RigOptions['onAccess'] | null): AddressSpace {
  if (see === null || see === undefined) return space;
  // What a function moves goes in parts; records and status words as words.
  return new Proxy(space, {
    get(target, name) {
      if (name === 'readPart') {
        return (lo: number, hi: number, into: Uint8Array, start: number, count: number) => {
          see(fromWords(lo, hi), count, false);
          return target.readPart(lo, hi, into, start, count);
        };
      }
      if (name === 'writePart') {
        return (lo: number, hi: number, from: Uint8Array, start: number, count: number) => {
          see(fromWords(lo, hi), count, true);
          return target.writePart(lo, hi, from, start, count);
        };
      }
      if (name === 'store32') {
        return (at: number, value: number) => {
          see(at, 4, true);
          return target.store32(at, value);
        };
      }
      const member = Reflect.get(target, name, target);
      return typeof member === 'function' ? member.bind(target) : member;
    },
  });
}

/** A machine of either kind around DMA engines: VM, host, hardware, vIOMMU, bus, and a guest that drives them. */
export function rig(kind: Kind, o: RigOptions = {}) {
  const vm = new Vm({ ram: [{ base: RAM, bytes: RAM_BYTES }], tell: o.tell ?? null });
  const irq = new SeenInterrupts();
  const common = {
    irq,
    ...(o.ignoreInvalidations === true ? { ignoreInvalidations: true } : {}),
    ...(o.timeout === undefined ? {} : { invalidateTimeout: o.timeout }),
  };
  const unit: IommuUnit =
    kind === 'smmuv3'
      ? new Smmuv3Unit(vm, {
          ...common,
          name: 'smmuv3',
          properties: {
            ...smmuDefaults('arch'),
            stage: 'nested',
            ats: true,
            pri: true,
            ssidsize: 20,
            stall: o.stallers === true,
          },
          doorbell: DOORBELL,
          canStall: () => o.stallers === true,
        })
      : new VtdUnit(vm, {
          ...common,
          name: 'vtd',
          properties: {
            ...vtdDefaults('arch'),
            scalableMode: true,
            fsts: true,
            pasidBits: 20,
            deviceIotlb: true,
            svm: true,
          },
        });
  const complex = new RootComplex({
    memory: watched(vm.hostMemory.space, o.onAccess ?? null),
    irq,
    clock: vm.clock,
    ...(o.latency === undefined ? {} : { latency: o.latency }),
  });
  const root = complex.addRoot(0, portsOf(vm, unit));
  unit.endpoints.to = root.endpoints;
  const doorbell = vm.memory.addHostWindow(DOORBELL, 4096, { name: 'its', read: () => 0, write: () => {} });
  const report = (error: unknown) => {
    throw error;
  };
  const follower = putBehind(vm, { complex, root, unit, doorbell: kind === 'smmuv3' ? doorbell : -1, report });
  const memory = new GuestMemory(vm.memory.guest, RAM);
  const guest: GuestProgram =
    kind === 'smmuv3' ? new Smmuv3Program(unit.window, memory, o) : new VtdProgram(unit.window, memory);
  return { vm, irq, unit, complex, root, follower, guest };
}

export type Machine = ReturnType<typeof rig>;

/** IOVA of the control page (ring and completion) of engine `n`, mapped for requests without PASID. */
const CONTROL = 0x1000_0000;

/** A DMA engine behind a root port-less slot, with its driver: every feature of it on. */
export class EngineDriver {
  readonly engine: DmaEngine;
  readonly slot: Slot;
  readonly sid: number;
  readonly #m: Machine;
  readonly #page: number;
  readonly #control: number;
  #tail = 0;

  /** @param pasids address spaces besides the one of requests without PASID. */
  constructor(
    m: Machine,
    devfn: number,
    pasids: readonly number[] = [],
    options: EngineOptions = {},
    place: { bus?: PciBus; sid?: number; shared?: boolean; like?: number } = {},
  ) {
    this.#m = m;
    this.engine = new DmaEngine({ integrated: true, ...options });
    this.slot = m.complex.plug(place.bus ?? m.root.bus, devfn, this.engine.fn);
    this.sid = place.sid ?? devfn;
    this.#page = DATA + 0x100_0000 + devfn * 4096;
    this.#control = CONTROL + devfn * 4096;
    if (place.like !== undefined) m.guest.share(this.sid, place.like);
    else if (place.shared !== true) m.guest.function(this.sid, [-1, ...pasids.filter((p) => p > 0)]);
    const owner = place.like ?? this.sid;
    for (const pasid of [-1, ...pasids]) m.guest.map(owner, pasid, this.#control, this.#page);
    this.enable();
  }

  enable(): void {
    const write = (at: number, size: number, value: number) =>
      this.#m.complex.configWrite(this.slot.bus.number, this.slot.devfn, at, size, value);
    const { config } = this.engine.fn;
    write(4, 2, 6);
    if (config.findExtended(0x0f) !== 0) write(config.findExtended(0x0f) + 6, 2, 0x8000);
    if (config.findExtended(0x1b) !== 0) write(config.findExtended(0x1b) + 6, 2, 1);
    if (config.findExtended(0x13) !== 0) {
      write(config.findExtended(0x13) + 12, 4, 32);
      write(config.findExtended(0x13) + 4, 2, 1);
    }
    this.register(ENGINE.RING_LOW, this.#control);
    this.register(ENGINE.RING_LOG2, 4);
    this.register(ENGINE.CONTROL, 5);
  }

  register(at: number, value: number): void {
    this.engine.fn.barWrite(0, at, 4, value);
  }

  /** Submits one descriptor. The completion record is in the control page, under the descriptor's PASID. */
  submit(d: Partial<Parameters<typeof encodeDescriptor>[0]>): void {
    const words = encodeDescriptor({
      op: WORK_OP.FILL,
      pattern: 0x5a5a_5a5a,
      bytes: 4,
      doneLo: this.#control + 0x800,
      ...d,
    });
    this.#m.vm.memory.guest.writeBytes(this.#page + this.#tail * 64, new Uint8Array(words.buffer));
    this.#m.vm.memory.guest.store32(this.#page + 0x800, WORK_STATUS.NONE);
    this.#tail = (this.#tail + 1) & 15;
    this.register(ENGINE.TAIL, this.#tail);
  }

  get status(): number {
    this.#m.vm.memory.guest.load32(this.#page + 0x800);
    return this.#m.vm.memory.guest.lo;
  }

  /** Fills 4 bytes at `iova` under `pasid`. @returns the completion status. */
  fill(iova: number, pasid = NO_PASID, pattern = 0x5a5a_5a5a, ask = false): number {
    this.submit({ dstLo: iova | 0, dstHi: (iova / 2 ** 32) | 0, pasid, pattern, ask });
    return this.status;
  }
}
