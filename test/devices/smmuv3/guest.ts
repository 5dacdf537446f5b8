import type { Smmuv3Deps } from '../../../devices/smmuv3/deps.ts';
import { Smmuv3 } from '../../../devices/smmuv3/device.ts';
import type { Smmuv3Deviations } from '../../../devices/smmuv3/profile.ts';
import { type Smmuv3Properties, smmuv3Defaults } from '../../../devices/smmuv3/properties.ts';
import { AddressSpace, ramBacking } from '../../../src/lib/memory/address-space.ts';
import type { ProfileName } from '../../../src/lib/profile/profile.ts';
import type { Said } from '../../../src/ports/tell.ts';
import { PAGE0, PAGE1, PAGE1_BASE } from '../../../src/spec/smmuv3/registers.ts';
import { FakeHost } from './fake-host.ts';

export const RAM = 0x4000_0000;
export const RAM_BYTES = 0x80_0000;
export const STRTAB = 0x4010_0000;
export const EVENTQ = 0x4020_0000;
export const CMDQ = 0x4030_0000;
export const CD = 0x4040_0000;
export const NOWHERE = 0x800_0000_0000;
export const VA = 0x7000_0000_0000n;

/** Page-1 registers with their offset in the window. */
export const R = {
  EVENTQ_PROD: PAGE1_BASE + PAGE1.EVENTQ_PROD.at,
  EVENTQ_CONS: PAGE1_BASE + PAGE1.EVENTQ_CONS.at,
  PRIQ_PROD: PAGE1_BASE + PAGE1.PRIQ_PROD.at,
  PRIQ_CONS: PAGE1_BASE + PAGE1.PRIQ_CONS.at,
} as const;

export interface GuestOptions {
  readonly profile?: ProfileName;
  readonly properties?: Partial<Smmuv3Properties>;
  readonly deviations?: Partial<Smmuv3Deviations>;
  readonly linuxOnly?: boolean;
  readonly trustPartialCount?: boolean;
}

/** A command: its two 64-bit words. */
export type Words = readonly [bigint | number, bigint | number];

/** What a guest does with one vSMMUv3: register accesses, tables and queues in its memory. */
export class GuestDriver {
  readonly smmu: Smmuv3;
  readonly memory: AddressSpace;
  /** Distance of this driver's tables and queues from the constants above, bytes. */
  readonly base: number;
  #prod = 0;
  #log2 = 0;

  constructor(smmu: Smmuv3, memory: AddressSpace, base = 0) {
    this.smmu = smmu;
    this.memory = memory;
    this.base = base;
  }

  r(at: number): number {
    return this.smmu.read(at, 4);
  }

  w(at: number, value: number): void {
    this.smmu.write(at, 4, value, 0);
  }

  r64(at: number): bigint {
    const out = new Int32Array(2);
    this.smmu.read64(at, out);
    return (BigInt(out[1]! >>> 0) << 32n) | BigInt(out[0]! >>> 0);
  }

  w64(at: number, value: bigint): void {
    this.smmu.write(at, 8, Number(value & 0xffff_ffffn) | 0, Number(value >> 32n) | 0);
  }

  /** Stores 64-bit words into guest memory. */
  put(at: number, ...values: (bigint | number)[]): void {
    values.forEach((v, i) => {
      const b = BigInt.asUintN(64, BigInt(v));
      this.memory.store64(at + 8 * i, Number(b & 0xffff_ffffn) | 0, Number(b >> 32n) | 0);
    });
  }

  get(at: number): bigint {
    this.memory.load64(at);
    return (BigInt(this.memory.hi >>> 0) << 32n) | BigInt(this.memory.lo >>> 0);
  }

  /** Goes on where another driver is with its queues. */
  goOn(other: GuestDriver): void {
    this.#prod = other.#prod;
    this.#log2 = other.#log2;
  }

  /** Queues and a linear stream table of 2^log2 entries, everything enabled: what the golden recordings do. */
  setUp(log2 = 4, eventLog2 = 3, cmdLog2 = 3): void {
    this.w64(PAGE0.STRTAB_BASE.at, BigInt(STRTAB + this.base));
    this.w(PAGE0.STRTAB_BASE_CFG.at, log2);
    this.w64(PAGE0.EVENTQ_BASE.at, BigInt(EVENTQ + this.base + eventLog2));
    this.w64(PAGE0.CMDQ_BASE.at, BigInt(CMDQ + this.base + cmdLog2));
    this.#log2 = cmdLog2;
    this.w(PAGE0.CR0.at, 0xd);
  }

  ste(sid: number, ...words: (bigint | number)[]): void {
    this.put(STRTAB + this.base + 64 * sid, ...words);
  }

  /** Queues commands of two 64-bit words each, rings the doorbell once, and answers CONS. */
  run(...commands: Words[]): number {
    const size = 2 ** this.#log2;
    for (const [lo, hi] of commands) {
      this.put(CMDQ + this.base + 16 * (this.#prod % size), lo, hi);
      this.#prod = (this.#prod + 1) % (2 * size);
    }
    this.w(PAGE0.CMDQ_PROD.at, this.#prod);
    return this.r(PAGE0.CMDQ_CONS.at);
  }

  /** The event record at `index` as four 64-bit words. */
  event(index: number): bigint[] {
    return [0, 8, 16, 24].map((o) => this.get(EVENTQ + this.base + 32 * index + o));
  }

  get prod(): number {
    return this.#prod;
  }
}

/** A small guest driver around one vSMMUv3 over the fake host. */
export class Guest {
  readonly host = new FakeHost();
  readonly memory = new AddressSpace();
  readonly said: Said[] = [];
  readonly interrupts: string[] = [];
  readonly messages: { address: number; data: number }[] = [];
  /** Whether a message-signalled interrupt finds somebody. */
  doorbell = true;
  readonly deps: Smmuv3Deps;
  readonly smmu: Smmuv3;
  readonly #driver: GuestDriver;

  constructor(o: GuestOptions = {}) {
    const profile = o.profile ?? 'qemu-11.1';
    this.memory.addRam(RAM, RAM_BYTES, ramBacking(RAM_BYTES));
    this.deps = {
      properties: { ...smmuv3Defaults(profile), stage: 'nested', ...o.properties },
      ...(o.deviations === undefined ? {} : { deviations: o.deviations }),
      memory: this.memory,
      iommufd: this.host.fd,
      ioasId: this.host.ioas(),
      upcalls: o.linuxOnly === true ? null : this.host.upcalls,
      irq: {
        pulse: (line) => this.interrupts.push(['evtq', 'priq', 'cmd_sync', 'gerror'][line]!),
        level: () => {},
        message: (address, data) => {
          this.messages.push({ address, data });
          return this.doorbell;
        },
      },
      tell: (s) => this.said.push(s),
      userVa: (gpa) => (gpa >= RAM && gpa < RAM + RAM_BYTES ? VA + BigInt(gpa) : -1n),
      roomAt: (gpa) => (gpa >= RAM && gpa < RAM + RAM_BYTES ? RAM + RAM_BYTES - gpa : 0),
      trustPartialCount: o.trustPartialCount === true,
    };
    this.smmu = new Smmuv3(this.deps);
    this.#driver = new GuestDriver(this.smmu, this.memory);
  }

  r = (at: number) => this.#driver.r(at);
  w = (at: number, value: number) => this.#driver.w(at, value);
  r64 = (at: number) => this.#driver.r64(at);
  w64 = (at: number, value: bigint) => this.#driver.w64(at, value);
  put = (at: number, ...values: (bigint | number)[]) => this.#driver.put(at, ...values);
  get = (at: number) => this.#driver.get(at);
  setUp = (log2 = 4, eventLog2 = 3, cmdLog2 = 3) => this.#driver.setUp(log2, eventLog2, cmdLog2);
  ste = (sid: number, ...words: (bigint | number)[]) => this.#driver.ste(sid, ...words);
  run = (...commands: Words[]) => this.#driver.run(...commands);
  event = (index: number) => this.#driver.event(index);

  /** Plugs a device in and answers its iommufd id. */
  plug(...sids: number[]): number {
    const vfio = this.host.device();
    this.smmu.addDevice({ sids, vfio });
    return vfio.devId;
  }

  /** The hardware reports a fault of the device's first stream. */
  fault(devId: number, record: readonly number[], stream = 0): void {
    this.host.handlers.get(devId)!.onFault!(devId, stream, Int32Array.from(record));
  }
}

export const sync = [0x46, 0] as const;
export const cfgiSte = (sid: number) => [(BigInt(sid) << 32n) | 3n, 1] as const;
export const cfgiAll = [4, 31] as const;
export const cfgiCd = (sid: number) => [(BigInt(sid) << 32n) | 5n, 1] as const;
export const nhAll = (vmid: number) => [(BigInt(vmid) << 32n) | 0x10n, 0] as const;
export const nhVa = (vmid: number, asid: number, page: number) =>
  [(BigInt(asid) << 48n) | (BigInt(vmid) << 32n) | 0x12n, page] as const;
export const S1_STE = 0x4040_000bn;
