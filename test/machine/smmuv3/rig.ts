import { type Smmuv3Properties, smmuv3Defaults } from '../../../devices/smmuv3/properties.ts';
import type { MachineLimits } from '../../../src/lib/limits/machine-limits.ts';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { Smmuv3Unit, type Smmuv3UnitConfig } from '../../../src/machine/smmuv3-unit.ts';
import type { UnitFunction } from '../../../src/machine/unit.ts';
import { Vm } from '../../../src/machine/vm.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import type { Said } from '../../../src/ports/tell.ts';
import { CD, GuestDriver, RAM } from '../../devices/smmuv3/guest.ts';

export const RIG_RAM = 0x400_0000;
export const DOORBELL = 0x0809_0040;
/** Where each further vSMMU of a rig has its tables. */
const UNIT_SPACE = 0x100_0000;

export interface RigOptions extends Partial<Omit<Smmuv3UnitConfig, 'properties' | 'name' | 'irq' | 'tell'>> {
  readonly properties?: Partial<Smmuv3Properties>;
  readonly units?: number;
  /** Bytes of guest RAM. */
  readonly ram?: number;
  /** Pages the host kernel may take for tables. */
  readonly limits?: Partial<MachineLimits>;
}

/** A VM with one or more whole SMMUs: guest-visible device, kernel driver, physical SMMU; and a guest driver for each. */
export class Rig {
  readonly said: Said[] = [];
  readonly interrupts: string[] = [];
  readonly vm: Vm;
  readonly units: Smmuv3Unit[] = [];
  readonly guests: GuestDriver[] = [];
  readonly doorbell: number;
  readonly messages: number[] = [];

  constructor(o: RigOptions = {}) {
    this.vm = new Vm({
      ram: [{ base: RAM, bytes: o.ram ?? RIG_RAM }],
      tell: (s) => this.said.push(s),
      ...(o.limits === undefined ? {} : { limits: o.limits }),
    });
    const page = DOORBELL - (DOORBELL % 4096);
    this.doorbell = this.vm.memory.addHostWindow(page, 4096, {
      name: 'its',
      read: () => 0,
      write: (_at, _size, value) => this.messages.push(value),
    });
    const profile = o.properties?.profile ?? 'qemu-11.1';
    for (let i = 0; i < (o.units ?? 1); i++) {
      const unit = new Smmuv3Unit(this.vm, {
        ...o,
        name: `smmuv3.${i}`,
        properties: { ...smmuv3Defaults(profile), stage: 'nested', ...o.properties },
        doorbell: o.doorbell ?? page,
        irq: {
          pulse: (line) => this.interrupts.push(['evtq', 'priq', 'cmd_sync', 'gerror'][line]!),
          level: () => {},
          message: () => true,
        },
        tell: (s) => this.said.push(s),
      });
      this.units.push(unit);
      this.guests.push(new GuestDriver(unit.device, this.vm.memory.guest, i * UNIT_SPACE));
    }
  }

  get g(): GuestDriver {
    return this.guests[0]!;
  }

  /** Plugs a function with these StreamIDs behind a unit; the hardware calls them something else. */
  plug(sids: number | readonly number[], unit = 0, description: object = {}): UnitFunction {
    const list = typeof sids === 'number' ? [sids] : sids;
    const base = { name: `dev${list[0]}`, msiDoorbell: this.doorbell };
    return this.units[unit]!.addFunction(list, list.map(hostRid), { ...base, ...description });
  }

  /** One DMA access. @returns the guest-physical address it reached, or a text for what became of it. */
  dma(sid: number, iova: number, access: number = ACCESS.WRITE, unit = 0, pasid = NO_PASID): number | string {
    const hw = this.units[unit]!.hardware;
    const r = hw.translate(hostRid(sid), pasid, iova | 0, (iova / 2 ** 32) | 0, access, AT.UNTRANSLATED);
    if (r === DMA.OK) return this.vm.memory.gpaOf(hw.out);
    return Object.entries(DMA).find(([, v]) => v === r)![0];
  }

  /** Host operations so far, by verb; `reset` forgets them. */
  hostOps(reset = false): Record<string, number> {
    const ops: Record<string, number> = {};
    for (const s of this.said) if (s.what === 'host') ops[s.verb] = (ops[s.verb] ?? 0) + 1;
    if (reset) this.said.length = 0;
    return ops;
  }
}

/** Guest stage-1 tables with 4 KiB pages and 39-bit addresses (T0SZ 25), in pages taken one after the other. */
export class Tables {
  readonly root: number;
  readonly #g: GuestDriver;
  #next: number;

  constructor(g: GuestDriver, at: number) {
    this.#g = g;
    this.root = at;
    this.#next = at + 0x1000;
  }

  #step(table: number, index: number): number {
    const at = table + 8 * index;
    const d = this.#g.get(at);
    if ((d & 1n) !== 0n) return Number(d & 0xf_ffff_ffff_f000n);
    const page = this.#next;
    this.#next += 0x1000;
    this.#g.put(at, BigInt(page) | 3n);
    return page;
  }

  #leaf(iova: number): number {
    const l2 = this.#step(this.root, Math.floor(iova / 2 ** 30) % 512);
    const l3 = this.#step(l2, Math.floor(iova / 2 ** 21) % 512);
    return l3 + 8 * (Math.floor(iova / 2 ** 12) % 512);
  }

  /** @param bits attribute bits of the leaf; the default is read-write, accessed. */
  map(iova: number, pa: number, bits = 0x443n): void {
    this.#g.put(this.#leaf(iova), BigInt(pa) | bits);
  }

  unmap(iova: number): void {
    this.#g.put(this.#leaf(iova), 0);
  }

  /** A CD for these tables, stored at `at`. @returns STE word 0 (Config stage 1) that points to it. */
  context(at: number, asid: number): bigint {
    this.#g.put(at, (BigInt(asid) << 48n) | 0x6204_c000_0019n, BigInt(this.root));
    return BigInt(at) | 0xbn;
  }
}

/** Stage-1 tables number `n` of a driver, with their CD. */
export function space(g: GuestDriver, n: number, asid: number): { tables: Tables; ste: bigint } {
  const tables = new Tables(g, 0x4080_0000 + g.base + n * 0x10_0000);
  return { tables, ste: tables.context(CD + g.base + 64 * n, asid) };
}
