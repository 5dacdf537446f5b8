import { expect } from 'vitest';
import { Bridge } from '../../bus/bridge.ts';
import type { IommuPorts } from '../../bus/iommu-ports.ts';
import { Shell, type ShellOptions } from '../../devices/endpoints/shell.ts';
import { ramBacking } from '../../src/lib/memory/address-space.ts';
import type { MakeUnit } from '../../src/machine/machine-plan.ts';
import { PluggedMachine } from '../../src/machine/plugged-machine.ts';
import type { IommuUnit } from '../../src/machine/unit.ts';
import type { Vm } from '../../src/machine/vm.ts';
import { ACCESS, type AtsPort, DMA, type EndpointPort, NO_PASID } from '../../src/ports/dma.ts';
import type { HwPort } from '../../src/ports/hw.ts';
import type { InterruptPort } from '../../src/ports/irq.ts';
import type { MmioDevice } from '../../src/ports/mmio.ts';
import type { Tell } from '../../src/ports/tell.ts';

export const RAM = 0x4000_0000;
export const RAM_BYTES = 0x100_0000;
/** Pages for what functions reach; tables and queues lie below. */
export const DATA = RAM + 0xc0_0000;
/** More RAM, for the largest queues, on machines that ask for it. */
export const BIG = { base: 0x5000_0000, bytes: 0x100_0000 } as const;
const IOMMU = 0x1000_0000;
const ECAM = 0x2000_0000;

/** Where the chain from the guest to a function and back is cut. A capability's test has to fail then. */
export interface Cut {
  /** The vIOMMU is made with these properties or deviations; its registers show what they would without the cut. */
  readonly device?: { readonly properties?: object; readonly deviations?: object };
  /** The physical IOMMU is made with these registers; the host reads those that it would have without the cut. */
  readonly hardware?: object;
  /** What the guest stores to memory arrives as something else. */
  readonly store?: (value: bigint, at: number) => bigint;
  /** What the guest writes to a register arrives as something else. */
  readonly register?: (offset: number, value: bigint) => bigint;
  /** Commands of the host that the hardware never sees, by their opcode. */
  readonly lost?: (op: number, words: Int32Array, at: number) => boolean;
  /** Messages to functions that never arrive. */
  readonly deaf?: readonly (keyof EndpointPort)[];
  /** Messages of functions to the IOMMU that never arrive, and requests that arrive as others. */
  readonly bus?: {
    readonly lost?: readonly (keyof AtsPort)[];
    readonly pasid?: (pasid: number) => number;
    readonly rid?: (rid: number) => number;
    readonly access?: (access: number) => number;
  };
  /** What the guest reads from a 4-byte word of a register is something else. */
  readonly reads?: (offset: number, value: number) => number;
  /** Interrupt messages and pulses never arrive. */
  readonly silent?: true;
  /** Stores stay in the processor's cache until it is told to write them back. */
  readonly cached?: true;
}

/** What a kind of IOMMU adds to a machine. */
export interface BedKind {
  /** Registers, and commands of the hardware's queue. */
  readonly commandWords: number;
  /** The opcode of a command. */
  readonly opcode: (w0: number) => number;
  /** A command without effect. */
  readonly idle: number;
  readonly doorbell: { readonly base: number; readonly bytes: number };
  readonly lines: readonly number[];
  readonly ram?: readonly { readonly base: number; readonly bytes: number }[];
  /** Makes the unit with the cut in it. */
  readonly make: (vm: Vm, irq: InterruptPort, tell: Tell | null, wrapHw: (hw: HwPort) => HwPort) => IommuUnit;
  /** What registers show although the chain is cut, by byte offset of 4-byte words. */
  readonly shown: ReadonlyMap<number, number>;
  /** The same of the hardware, by byte offset of whole registers. */
  readonly hostReads: ReadonlyMap<number, bigint>;
}

const PASSIVE: Behaviour = { barRead: () => 0, barWrite: () => {}, reset: () => {} };
type Behaviour = Parameters<Shell['behave']>[0];

/** A function that does what its test says. */
export class Probe {
  readonly shell: Shell;
  /** Tokens of stalled accesses that were decided, with what became of them. */
  readonly resumed: { token: number; outcome: number }[] = [];
  /** Codes of answers to its page requests, in order. */
  readonly answers: number[] = [];
  /** PASIDs of messages that answer page requests, as they come in; NO_PASID: without. */
  readonly answeredAs: number[] = [];

  constructor(o: Partial<ShellOptions> = {}) {
    const identity = { vendor: 0x1b36, device: 0x00d2, classCode: 0x088000 };
    this.shell = new Shell({ name: 'probe', identity, bars: [], ats: null, pri: null, pasid: null, ...o });
    const respond = this.shell.pageResponse.bind(this.shell);
    this.shell.pageResponse = (pasid, group, code) => {
      this.answeredAs.push(pasid);
      respond(pasid, group, code);
    };
    this.shell.behave({ ...PASSIVE, resumed: (token, outcome) => void this.resumed.push({ token, outcome }) });
  }

  /** Writes 4 bytes. @returns a DMA value or PAGE_FAULT. @param more ACCESS bits beside WRITE. */
  write(va: bigint | number, value: number, pasid = NO_PASID, more = 0): number {
    const [lo, hi] = words(va);
    return this.shell.memory.write(pasid, lo, hi, new Uint8Array(Int32Array.of(value).buffer), 0, 4, more);
  }

  /** Reads 4 bytes. @returns them, or null when the request failed. @param more ACCESS bits beside READ. */
  read(va: bigint | number, pasid = NO_PASID, more = 0): number | null {
    const [lo, hi] = words(va);
    const into = new Uint8Array(4);
    const r = this.shell.memory.read(pasid, lo, hi, into, 0, 4, more);
    return r === DMA.OK ? new Int32Array(into.buffer)[0]! : null;
  }

  /** Asks for a page. @returns whether the request left the function. */
  ask(va: number, pasid = NO_PASID, access: number = ACCESS.READ | ACCESS.WRITE): boolean {
    return this.shell.memory.pageRequest(pasid, va, 0, access, (code) => void this.answers.push(code));
  }

  /** A write of 4 bytes that says it is an interrupt. @returns a DMA value. */
  message(address: number, data: number): number {
    return this.shell.upstream!.message(address | 0, (address / 2 ** 32) | 0, data);
  }

  /** Token of its access that stalls. */
  get token(): number {
    return this.shell.upstream!.stallToken;
  }
}

function words(va: bigint | number): [number, number] {
  const v = BigInt.asUintN(64, BigInt(va));
  return [Number(BigInt.asIntN(32, v)), Number(BigInt.asIntN(32, v >> 32n))];
}

/** A machine as an emulator has it, driven from its guest alone: ECAM, registers, RAM, and functions that send. */
export class Bed {
  readonly machine: PluggedMachine;
  readonly messages: [address: number, data: number][] = [];
  /** Rises of wired lines, by number. */
  readonly pulses: number[] = [];
  readonly #windows = new Map<number, MmioDevice>();
  readonly #deferred: (() => void)[] = [];
  readonly #kind: BedKind;
  readonly #cut: Cut;
  #free = RAM;
  #data = DATA;
  /** devfn of the last root port. */
  #ports = 0x100;
  #dirty = new Map<number, bigint>();

  constructor(kind: BedKind, cut: Cut) {
    this.#kind = kind;
    this.#cut = cut;
    const more = kind.ram ?? [];
    const ram = [
      { base: RAM, bytes: RAM_BYTES, backing: ramBacking(RAM_BYTES) },
      ...more.map((r) => ({ ...r, backing: ramBacking(r.bytes) })),
    ];
    const make: MakeUnit = (vm, irq, tell) =>
      kind.make(vm, cut.silent === true ? MUTE : irq, tell, (hw) => this.#wrap(hw));
    this.machine = new PluggedMachine(
      {
        ram,
        claim: (base, window) => void this.#windows.set(base, window),
        interrupts: {
          line: (n, asserted) => void (asserted && this.pulses.push(n)),
          message: (address, data) => void this.messages.push([address, data]),
        },
        defer: (action) => void this.#deferred.push(action),
        report: (error) => {
          throw error;
        },
      },
      { iommu: IOMMU, ecam: { base: ECAM, buses: 256 }, doorbell: kind.doorbell, lines: kind.lines },
      make,
    );
    const { root, unit } = this.machine;
    if (cut.deaf !== undefined) unit.endpoints.to = deafTo(unit.endpoints.to!, cut.deaf);
    if (cut.bus !== undefined) root.iommu = changed(root.iommu!, cut.bus);
  }

  /** The hardware as the host finds it. */
  #wrap(hw: HwPort): HwPort {
    const { hostReads, commandWords, opcode, idle } = this.#kind;
    const { lost } = this.#cut;
    return new Proxy(hw, {
      get(target, name) {
        if (name === 'readRegister') return (at: number) => hostReads.get(at) ?? target.readRegister(at);
        if (name === 'submit' && lost !== undefined) {
          return (w: Int32Array, start: number, count: number) => {
            const copy = w.slice(start, start + count * commandWords);
            for (let at = 0; at < copy.length; at += commandWords) {
              if (lost(opcode(copy[at]!), copy, at)) copy.fill(0, at, at + commandWords)[at] = idle;
            }
            target.submit(copy, 0, count);
          };
        }
        const member = Reflect.get(target, name, target);
        return typeof member === 'function' ? member.bind(target) : member;
      },
    });
  }

  /** Everything under way has arrived. */
  settle(): void {
    for (let n = 0; n < 100 && this.#deferred.length > 0; n++) for (const action of this.#deferred.splice(0)) action();
    this.machine.vm.clock.settle(100_000);
    for (const action of this.#deferred.splice(0)) action();
  }

  get #registers(): MmioDevice {
    return this.#windows.get(IOMMU)!;
  }

  /** A register of 4 bytes, unsigned. */
  r(at: number): number {
    const value = (this.#kind.shown.get(at) ?? this.#registers.read(at, 4)) >>> 0;
    return (this.#cut.reads?.(at, value) ?? value) >>> 0;
  }

  r64(at: number): bigint {
    return BigInt(this.r(at)) | (BigInt(this.r(at + 4)) << 32n);
  }

  w(at: number, value: number): void {
    const v = this.#cut.register?.(at, BigInt(value >>> 0)) ?? BigInt(value >>> 0);
    this.#registers.write(at, 4, Number(BigInt.asIntN(32, v)), 0);
  }

  w64(at: number, value: bigint): void {
    const v = BigInt.asUintN(64, this.#cut.register?.(at, value) ?? value);
    this.#registers.write(at, 8, Number(BigInt.asIntN(32, v)), Number(BigInt.asIntN(32, v >> 32n)));
  }

  /** The same as two writes of 4 bytes, which every profile takes for every register. */
  halves(at: number, value: bigint): void {
    this.w(at, Number(value & 0xffff_ffffn));
    this.w(at + 4, Number(value >> 32n));
  }

  /** Stores 64-bit words. */
  put(at: number, ...values: (bigint | number)[]): void {
    values.forEach((value, i) => {
      const place = at + 8 * i;
      const v = BigInt.asUintN(64, this.#cut.store?.(BigInt.asUintN(64, BigInt(value)), place) ?? BigInt(value));
      this.#dirty.set(place, v);
      if (this.#cut.cached !== true) this.#out(place);
    });
  }

  /** Writes what was stored at `at` back to memory: what a driver does where walks do not look into caches. */
  flush(at: number, bytes = 8): void {
    for (let place = at - (at % 8); place < at + bytes; place += 8) this.#out(place);
  }

  #out(place: number): void {
    const v = this.#dirty.get(place);
    if (v === undefined) return;
    this.#dirty.delete(place);
    const [lo, hi] = words(v);
    if (!this.machine.vm.memory.guest.store64(place, lo, hi)) throw new Error(`no memory at ${place.toString(16)}`);
  }

  get(at: number): bigint {
    const held = this.#dirty.get(at);
    if (held !== undefined) return held;
    const { guest } = this.machine.vm.memory;
    if (!guest.load64(at)) throw new Error(`no memory at ${at.toString(16)}`);
    return (BigInt(guest.hi >>> 0) << 32n) | BigInt(guest.lo >>> 0);
  }

  get32(at: number): number {
    return Number((this.get(at - (at % 8)) >> BigInt(8 * (at % 8))) & 0xffff_ffffn);
  }

  /** Zeroed memory for tables and queues, aligned to its size. */
  pages(bytes = 4096): number {
    const size = 2 ** Math.ceil(Math.log2(Math.max(bytes, 4096)));
    const at = Math.ceil(this.#free / size) * size;
    this.#free = at + size;
    if (this.#free > DATA) throw new Error('the bed has no more memory for tables');
    return at;
  }

  /** A page for data. */
  page(): number {
    this.#data += 4096;
    return this.#data - 4096;
  }

  #config(bus: number, devfn: number, at: number, size: number, value: number): void {
    this.#windows.get(ECAM)!.write((bus << 20) | (devfn << 12) | at, size, value, 0);
  }

  /** Plugs a function in at a requester id, behind a root port where its bus is another, and lets it send. */
  plug(fn: Probe, rid: number): () => void {
    const [bus, devfn] = [rid >> 8, rid & 0xff];
    let at: Bridge | undefined;
    if (bus > 0) {
      at = new Bridge({ kind: 'root' });
      this.#ports -= 8;
      this.machine.plug(at, this.#ports);
      this.#config(0, this.#ports, 0x18, 4, (bus << 16) | (bus << 8));
      this.#config(0, this.#ports, 4, 2, 6);
    }
    const away = this.machine.plug(fn.shell, devfn, at);
    this.enable(fn, rid);
    return away;
  }

  enable(fn: Probe, rid: number): void {
    const [bus, devfn] = [rid >> 8, rid & 0xff];
    const { config } = fn.shell;
    const set = (at: number, size: number, value: number) => this.#config(bus, devfn, at, size, value);
    set(4, 2, 6);
    if (config.findExtended(0x1b) !== 0) set(config.findExtended(0x1b) + 6, 2, 7);
    if (config.findExtended(0x0f) !== 0) set(config.findExtended(0x0f) + 6, 2, 0x8000);
    if (config.findExtended(0x13) === 0) return;
    set(config.findExtended(0x13) + 12, 4, 32);
    set(config.findExtended(0x13) + 4, 2, 1);
  }

  /** A write of `fn` to `va` arrives at `pa`. */
  arrives(fn: Probe, va: bigint | number, pa: number, pasid = NO_PASID, more = 0): void {
    const value = (this.get32(pa) + 1) | 0;
    expect([fn.write(va, value, pasid, more), this.get32(pa) | 0], 'a write, and what memory holds').toEqual([
      DMA.OK,
      value,
    ]);
  }

  /** It does not, and `pa` keeps what it has. */
  refused(fn: Probe, va: bigint | number, pa = DATA, pasid = NO_PASID, more = 0): void {
    const before = this.get32(pa);
    expect(fn.write(va, before + 1, pasid, more), 'a write').not.toBe(DMA.OK);
    expect(this.get32(pa)).toBe(before);
  }
}

const MUTE: InterruptPort = { pulse() {}, level() {}, message: () => true };

function deafTo(to: EndpointPort, deaf: readonly (keyof EndpointPort)[]): EndpointPort {
  return new Proxy(to, {
    get(target, name) {
      // An invalidation is answered as if it had arrived.
      if (deaf.includes(name as keyof EndpointPort)) return () => false;
      const member = Reflect.get(target, name, target);
      return typeof member === 'function' ? member.bind(target) : member;
    },
  });
}

function changed(ports: IommuPorts, bus: NonNullable<Cut['bus']>): IommuPorts {
  const { pasid = (p) => p, rid = (r) => r, access = (a) => a, lost = [] } = bus;
  const through = <T extends object>(target: T): T =>
    new Proxy(target, {
      get(of, name) {
        const member = Reflect.get(of, name, of);
        if (typeof member !== 'function') return member;
        if (lost.includes(name as keyof AtsPort)) return () => 0;
        if (name === 'translate' || name === 'translationRequest') {
          return (r: number, p: number, lo: number, hi: number, a: number, ...rest: unknown[]) =>
            member.call(of, rid(r), pasid(p), lo, hi, access(a), ...rest);
        }
        return member.bind(of);
      },
    });
  return { ...ports, translate: through(ports.translate), ats: ports.ats === null ? null : through(ports.ats) };
}
