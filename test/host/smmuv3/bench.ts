import { Smmuv3Driver, type Smmuv3DriverOptions } from '../../../src/host/drivers/smmuv3/driver.ts';
import type { Smmuv3DriverIdentity } from '../../../src/host/drivers/smmuv3/features.ts';
import type { IommufdFile } from '../../../src/host/iommufd/file.ts';
import { type DeviceDescription, KernelDevice } from '../../../src/host/kernel/device.ts';
import type {
  DriverData,
  DriverViommu,
  NestedDomain,
  PagingDomain,
  ViommuServices,
} from '../../../src/host/kernel/driver.ts';
import { HostKernel } from '../../../src/host/kernel/kernel.ts';
import { UpcallHub } from '../../../src/host/upcalls/upcall-hub.ts';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { HostMemory } from '../../../src/lib/memory/host-memory.ts';
import { Smmuv3HwRegisters } from '../../../src/piommu/smmuv3/registers.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { HW_ERROR, type HwPort } from '../../../src/ports/hw.ts';
import { HWPT_DATA, HWPT_FLAG } from '../../../src/spec/iommufd/uapi.ts';
import { type Command, decodeCommand } from '../../../src/spec/smmuv3/commands.ts';

/** What reached the hardware, in order. */
export type Seen =
  | { readonly what: 'store'; readonly at: number; readonly lo: number; readonly hi: number }
  | { readonly what: 'command'; readonly words: readonly number[]; readonly command: Command }
  | { readonly what: 'sync' }
  | { readonly what: 'ats'; readonly device: string; readonly on: boolean };

/** An SMMU that stores and takes commands, and does nothing else. */
export class FakeHw implements HwPort {
  done = 0;
  error: number = HW_ERROR.NONE;
  pending = 0;
  readonly seen: Seen[] = [];
  /** Decides about each command; an error stops the submission there. */
  refuse: (words: readonly number[]) => number = () => HW_ERROR.NONE;
  /** Decides about each sync. */
  refuseSync: () => number = () => HW_ERROR.NONE;
  /** `pending` after a submission that contained ATC_INV. */
  token = 0;
  readonly #memory: HostMemory;
  readonly #registers: Smmuv3HwRegisters;

  constructor(memory: HostMemory, { idr: [idr0, idr1, , idr3, , idr5], iidr, aidr }: Smmuv3DriverIdentity = IDENTITY) {
    this.#memory = memory;
    this.#registers = new Smmuv3HwRegisters({ idr0, idr1, idr3, idr5, iidr, aidr }, () => {});
  }

  readRegister(offset: number): bigint {
    return this.#registers.readRegister(offset);
  }

  writeRegister(offset: number, value: bigint): void {
    this.#registers.writeRegister(offset, value);
  }

  writeEntry(table: number, entry: number, word: number, lo: number, hi: number): void {
    const at = table + entry + 8 * word;
    if (!this.#memory.space.store64(at, lo, hi)) throw new Error('a table entry outside memory');
    this.seen.push({ what: 'store', at, lo, hi });
  }

  submit(words: Int32Array, start: number, count: number): void {
    let atc = false;
    this.pending = 0;
    for (let i = 0; i < count; i++) {
      const w = Array.from(words.subarray(start + 4 * i, start + 4 * i + 4));
      this.done = i;
      this.error = this.refuse(w);
      if (this.error !== HW_ERROR.NONE) return;
      const command = decodeCommand(words, start + 4 * i);
      if (command.op === 'ATC_INV') atc = true;
      this.seen.push({ what: 'command', words: w, command });
    }
    this.done = count;
    this.error = this.refuseSync();
    if (this.error === HW_ERROR.NONE) this.seen.push({ what: 'sync' });
    if (atc) this.pending = this.token;
  }

  /** Takes what was seen since the last call. */
  take(): Seen[] {
    return this.seen.splice(0);
  }

  /** Names of the commands since the last call, '|' for a sync. */
  ops(): string {
    return this.take()
      .map((s) => (s.what === 'command' ? s.command.op : s.what === 'sync' ? '|' : ''))
      .filter((s) => s !== '')
      .join(' ');
  }
}

/** Everything a nested translation needs: S1P, S2P, ATS, 2-level tables, 16-bit VMIDs and ASIDs, 44-bit output. */
export const IDENTITY: Smmuv3DriverIdentity = {
  idr: [0x0d44_141b, 0x0273_0010, 0, 0x1414, 0, 0x74],
  iidr: 0x43b,
  aidr: 1,
};

/** IDENTITY with fields of IDR0..5 changed: [register, mask, value]. */
export function identity(...changes: readonly (readonly [number, number, number])[]): Smmuv3DriverIdentity {
  const idr = [...IDENTITY.idr] as [number, number, number, number, number, number];
  for (const [n, mask, value] of changes) idr[n] = (idr[n]! & ~mask) | value;
  return { ...IDENTITY, idr };
}

export interface BenchOptions extends Partial<Smmuv3DriverOptions> {
  /** What the SMMU says it is. */
  readonly identity?: Smmuv3DriverIdentity;
  readonly withUpcalls?: boolean;
  readonly pages?: number;
}

/** A kernel with one SMMU and no iommufd: domains are attached as the IOMMU core does it. */
export function bench(options: BenchOptions = {}) {
  const memory = new HostMemory(options.pages);
  const hw = new FakeHw(memory, options.identity);
  const kernel = new HostKernel({ memory, clock: new VirtualClock() });
  const hub = new UpcallHub();
  const driver = new Smmuv3Driver({
    name: 'smmuv3.0',
    hw,
    memory,
    upcalls: options.withUpcalls === false ? null : hub,
    ...options,
  });
  kernel.addIommu(driver);
  // What the driver tells the hardware at the start is another test's subject.
  hw.take();

  const device = (name: string, streams: readonly number[], more: Partial<DeviceDescription> = {}): KernelDevice =>
    kernel.addDevice({
      name,
      streams,
      iommu: driver,
      ats: true,
      control: {
        setAts: (on) => hw.seen.push({ what: 'ats', device: name, on }),
        setPri: () => {},
      },
      ...more,
    });

  return {
    memory,
    hw,
    kernel,
    hub,
    driver,
    device,
    parent: (dev: KernelDevice, flags: number = HWPT_FLAG.NEST_PARENT): PagingDomain =>
      ok(driver.allocPaging(dev, flags, null)),
    viommu: (dev: KernelDevice, parent: PagingDomain, names = new Map<number, KernelDevice>()) =>
      new Vsmmu(driver, dev, parent, names),
    attach: (dev: KernelDevice, domain: NestedDomain | PagingDomain): number => dev.group.setDomain(domain),
    detach: (dev: KernelDevice) => dev.group.block(driver.blocked),
    /** The 16 words of a stream's entry in memory. */
    ste(sid: number): number[] {
      const at = driver.streamTable.addressOf(sid);
      return Array.from({ length: 8 }, (_, w) => {
        memory.space.load64(at + 8 * w);
        return [memory.space.lo, memory.space.hi];
      }).flat();
    },
    NO_PASID,
  };
}
export type Bench = ReturnType<typeof bench>;

export function ok<T extends object>(r: T | number): T {
  if (typeof r === 'number') throw new Error(`errno ${-r}`);
  return r;
}

/** A vIOMMU's generic half, reduced to its names and its events. */
export class Vsmmu implements ViommuServices {
  readonly driver: DriverViommu;
  readonly events: Int32Array[] = [];
  readonly names: Map<number, KernelDevice>;

  constructor(driver: Smmuv3Driver, dev: KernelDevice, parent: PagingDomain, names: Map<number, KernelDevice>) {
    this.names = names;
    this.driver = ok(driver.viommuInit(dev, 1, parent, null, this));
  }

  findDevice(virtId: number): KernelDevice | null {
    return this.names.get(virtId) ?? null;
  }

  virtIdOf(dev: KernelDevice): bigint {
    for (const [id, d] of this.names) if (d === dev) return BigInt(id);
    return -1n;
  }

  reportEvent(_type: number, data: Uint8Array): number {
    this.events.push(new Int32Array(data.slice().buffer));
    return 0;
  }

  offerMmap(): bigint {
    return 0n;
  }

  nested(w0: bigint, w1: bigint, flags = 0): NestedDomain | number {
    return this.driver.allocNested!(flags, vste(w0, w1));
  }

  run(...commands: readonly (readonly number[])[]): { r: number; done: number } {
    const inv = this.driver.invalidation!;
    const r = inv.run(Int32Array.from(commands.flat()), 0, commands.length);
    return { r, done: inv.done };
  }
}

export function vste(w0: bigint, w1: bigint, type: number = HWPT_DATA.ARM_SMMUV3, length = 16): DriverData {
  const bytes = new Uint8Array(Math.max(length, 16));
  new DataView(bytes.buffer).setBigUint64(0, w0, true);
  new DataView(bytes.buffer).setBigUint64(8, w1, true);
  return {
    type,
    user: {
      length,
      copyIn: (offset, into) => {
        into.set(bytes.subarray(offset, offset + into.length));
        return true;
      },
      copyOut: () => true,
    },
  };
}

/** HWPT_ALLOC without a fault queue. @returns the id, or -errno. */
export function allocHwpt(
  fd: IommufdFile,
  devId: number,
  flags: number,
  ptId: number,
  data: DriverData | null,
): number {
  const dataType = data?.type ?? HWPT_DATA.NONE;
  const c = { flags, devId, ptId, outHwptId: 0, reserved: 0, dataType, data: data?.user ?? null, faultId: 0 };
  const r = fd.hwptAlloc(c);
  return r === 0 ? c.outHwptId : r;
}

export { KernelDevice };
