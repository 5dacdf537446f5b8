import type { IommuPorts } from '../../../bus/iommu-ports.ts';
import { readBar, writeBar } from '../../../bus/registers.ts';
import { RootComplex } from '../../../bus/root-complex.ts';
import type { Root, Slot } from '../../../bus/topology.ts';
import type { DeviceControl } from '../../host/kernel/driver.ts';
import type { MessagePlace, VfioHardware, VfioHardwareEvents } from '../../host/vfio/hardware.ts';
import { AccessNesting } from '../../lib/access/access-gate.ts';
import { extendedCapability } from '../../lib/pci/capability-list.ts';
import type { EndpointPort, InterruptRemapPort } from '../../ports/dma.ts';
import type { Memory, MemoryWindow } from '../../ports/memory.ts';
import type { PciFunction, PciWindow } from '../../ports/pci.ts';
import { ATS_CAP, EXT, PASID_CAP, PRI_CAP } from '../../spec/pcie/capabilities.ts';
import type { Afterwards } from './afterwards.ts';

/** Bus number of the functions. */
export const HOST_BUS_NUMBER = 1;
/** Vectors of one function, a power of two: MSI-X has at most 2048. */
const VECTORS = 2048;

/** Where interrupt messages of a host go. */
export interface Doorbell {
  /** Bus address that is written into the functions. */
  readonly bus: number;
  /** Host-physical page of it, when the IOMMU translates messages; -1: it lets them through (x86). */
  readonly page: number;
}

/** x86: messages are not translated. */
export const X86_DOORBELL: Doorbell = { bus: 0xfee0_0000, page: -1 };
/** GICv3: the translation register of an ITS, through the software MSI window that iommufd maps it into. */
export const ITS_DOORBELL: Doorbell = { bus: 0x0800_0040, page: 0x0809_0000 };

/**
 * The bus of an emulated host: functions behind its IOMMU, and an interrupt controller that knows their vectors. A message is
 * taken only from the function whose vector it names, as interrupt remapping and an ITS do it by requester id: any function can
 * be made to write any word to the doorbell.
 */
export class HostBus {
  readonly #complex: RootComplex;
  readonly #root: Root;
  readonly #accesses = new AccessNesting();
  readonly #doorbell: Doorbell;
  readonly #functions: HostFunction[] = [];
  readonly #up = [false, false, false, false];
  readonly #afterwards: Afterwards;

  /** @param memory what translated requests reach. @param iommu what they pass; the bus remaps messages itself. */
  constructor(memory: Memory, iommu: Omit<IommuPorts, 'remap'>, doorbell: Doorbell, afterwards: Afterwards) {
    this.#doorbell = doorbell;
    this.#afterwards = afterwards;
    this.#complex = new RootComplex({
      memory,
      irq: {
        pulse() {},
        level: (line, up) => this.#line(line, up),
        // Who sent it was looked at when it was remapped.
        message: (_, data) => this.#message(data),
      },
      clock: null,
      accesses: this.#accesses,
      later: (action) => afterwards.later(action),
    });
    this.#root = this.#complex.addRoot(HOST_BUS_NUMBER, { ...iommu, remap: this.#remap() });
  }

  /** Messages keep their words, and get through from the function they belong to. */
  #remap(): InterruptRemapPort {
    const out = { address: 0, data: 0 };
    return {
      remap: (rid, address, data) => {
        out.address = address;
        out.data = data;
        return address === this.#doorbell.bus && this.#sentBy(rid, data);
      },
      get outAddress() {
        return out.address;
      },
      get outData() {
        return out.data;
      },
    };
  }

  /** Whether a message is one of the vectors of the function with this requester id. */
  #sentBy(rid: number, data: number): boolean {
    return this.#functions[Math.floor(data / VECTORS)]?.requester === rid;
  }

  /** Where the IOMMU sends its messages to functions. */
  get endpoints(): EndpointPort {
    return this.#root.endpoints;
  }

  /** The registers behind the doorbell's page; the caller puts them into host memory. */
  get doorbell(): MemoryWindow {
    const register = this.#doorbell.bus % 4096;
    return {
      name: 'its',
      read: () => 0,
      write: (offset, size, data) => {
        if (offset !== register || size !== 4 || !this.#sentBy(this.#complex.requester, data)) return;
        this.#message(data);
      },
    };
  }

  /** @throws ViommuError see `RootComplex.plug`. */
  plug(fn: PciFunction, devfn: number): HostFunction {
    const slot = this.#complex.plug(this.#root.bus, devfn, fn);
    const made = new HostFunction(slot, this.#functions.length * VECTORS, this.#doorbell, this.#accesses);
    this.#functions.push(made);
    return made;
  }

  #message(data: number): boolean {
    const fn = this.#functions[Math.floor(data / VECTORS)];
    fn?.events?.message(data % VECTORS);
    return fn !== undefined;
  }

  /**
   * Pins of several functions end at one line: each of them looks whether it was its own. It does so behind the access that
   * moved the pin, since until then the function lets nobody mask it.
   */
  #line(line: number, up: boolean): void {
    this.#up[line] = up;
    this.#afterwards.soon(() => {
      for (const fn of this.#functions) if (fn.line === line) fn.events?.line(this.#up[line]!);
    });
  }
}

/** A function on the bus, as its driver in the host kernel has it. */
export class HostFunction implements VfioHardware {
  events: VfioHardwareEvents | null = null;
  readonly #slot: Slot;
  readonly #first: number;
  readonly #doorbell: Doorbell;
  readonly #ats: number;
  readonly #pri: number;
  readonly #pasid: number;
  readonly #accesses: AccessNesting;
  #priOn = false;

  /** @param first of its vectors, as messages name them. @param accesses what the gates of the bus share. */
  constructor(slot: Slot, first: number, doorbell: Doorbell, accesses: AccessNesting) {
    this.#accesses = accesses;
    this.#slot = slot;
    this.#first = first;
    this.#doorbell = doorbell;
    this.#ats = extendedCapability(slot.fn, EXT.ATS);
    this.#pri = extendedCapability(slot.fn, EXT.PRI);
    this.#pasid = extendedCapability(slot.fn, EXT.PASID);
    this.#enable();
  }

  /** Its requester id as interrupt controllers know it. */
  get requester(): number {
    return this.#slot.rid;
  }
  /** Its requester id as hardware has it. */
  get stream(): number {
    return this.#slot.stream;
  }
  /** It has ATS. */
  get ats(): boolean {
    return this.#ats !== 0;
  }
  /** It has page requests. */
  get pri(): boolean {
    return this.#pri !== 0;
  }
  /** The line that its pin A ends at; every function of this bus uses pin A. */
  get line(): number {
    return (this.#slot.devfn >>> 3) & 3;
  }
  get windows(): readonly PciWindow[] {
    return this.#slot.fn.windows;
  }

  configRead(offset: number, size: number): number {
    return this.#slot.fn.configRead(offset, size);
  }
  configWrite(offset: number, size: number, value: number): void {
    const { gate, fn } = this.#slot;
    gate.within(() => fn.configWrite(offset, size, value));
  }
  barRead(window: number, offset: number, size: number): number {
    return readBar(this.#slot, window, offset, size);
  }
  barWrite(window: number, offset: number, size: number, value: number): void {
    writeBar(this.#slot, window, offset, size, value);
  }

  together(accesses: () => void): void {
    this.#accesses.together(accesses);
  }
  get spent(): boolean {
    return this.#accesses.spent;
  }

  /** The kernel gives PASIDs, ATS and page requests back as they were. */
  reset(): void {
    this.#slot.fn.reset();
    this.#enable();
  }

  place(vector: number): MessagePlace {
    return { lo: this.#doorbell.bus | 0, hi: 0, data: this.#first + vector };
  }

  /** How the kernel's IOMMU driver switches ATS and page requests. */
  get control(): DeviceControl {
    return {
      setAts: (on) => {
        this.#slot.hostAts = on;
        this.#enable();
      },
      setPri: (on) => {
        this.#priOn = on;
        this.#enable();
      },
    };
  }

  /** Linux's IOMMU drivers enable PASIDs when they find a function, before its ATS. */
  #enable(): void {
    if (this.#pasid !== 0) {
      const { CAP, CONTROL, ENABLE, EXEC, PRIV } = PASID_CAP;
      const features = this.configRead(this.#pasid + CAP, 2) & (EXEC | PRIV);
      this.configWrite(this.#pasid + CONTROL, 2, features | ENABLE);
    }
    if (this.#ats !== 0) this.configWrite(this.#ats + ATS_CAP.CONTROL, 2, this.#slot.hostAts ? ATS_CAP.ENABLE : 0);
    if (this.#pri === 0) return;
    if (this.#priOn) {
      this.configWrite(this.#pri + PRI_CAP.ALLOCATION, 4, this.configRead(this.#pri + PRI_CAP.CAPACITY, 4));
    }
    this.configWrite(this.#pri + PRI_CAP.CONTROL, 2, this.#priOn ? PRI_CAP.ENABLE : 0);
  }
}
