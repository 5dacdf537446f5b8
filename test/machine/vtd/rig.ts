import { type VtdProperties, vtdDefaults } from '../../../devices/vtd/properties.ts';
import type { MachineLimits } from '../../../src/lib/limits/machine-limits.ts';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import type { UnitFunction } from '../../../src/machine/unit.ts';
import { Vm } from '../../../src/machine/vm.ts';
import { VtdUnit, type VtdUnitConfig } from '../../../src/machine/vtd-unit.ts';
import { ACCESS, AT, DMA, type EndpointPort, NO_PASID } from '../../../src/ports/dma.ts';
import type { Said } from '../../../src/ports/tell.ts';
import { GuestDriver } from '../../devices/vtd/guest-driver.ts';

export const RIG_RAM = 0x200_0000;
/** Where each further unit of a rig has its tables. */
const UNIT_SPACE = 0x80_0000;

export interface RigOptions extends Partial<Omit<VtdUnitConfig, 'properties' | 'name' | 'irq' | 'tell'>> {
  readonly props?: Partial<VtdProperties>;
  readonly units?: number;
  readonly limits?: Partial<MachineLimits>;
}

/** Layout of one unit's tables, relative to its space. */
const AT_ROOT = 0x20_0000;
const AT_CONTEXT = 0x20_1000;
const AT_DIR = 0x20_2000;
const AT_PASIDS = 0x20_3000;
const AT_POOL = 0x21_0000;

/** A VM with whole VT-d units (guest-visible device, kernel driver, physical unit) and a guest driver for each. */
export class Rig {
  readonly said: Said[] = [];
  readonly messages: { address: number; data: number }[] = [];
  readonly vm: Vm;
  readonly units: VtdUnit[] = [];
  readonly guests: GuestDriver[] = [];
  readonly pools: { next: number }[] = [];

  constructor(o: RigOptions = {}) {
    this.vm = new Vm({
      ram: [{ base: 0, bytes: RIG_RAM }],
      tell: (s) => this.said.push(s),
      ...(o.limits === undefined ? {} : { limits: o.limits }),
    });
    for (let i = 0; i < (o.units ?? 1); i++) {
      const unit = new VtdUnit(this.vm, {
        ...o,
        name: `vtd.${i}`,
        properties: { ...vtdDefaults(o.props?.profile ?? 'qemu-11.1'), ...o.props },
        irq: { pulse() {}, level() {}, message: (address, data) => this.messages.push({ address, data }) > 0 },
        tell: (s) => this.said.push(s),
      });
      this.units.push(unit);
      const base = i * UNIT_SPACE;
      this.guests.push(new GuestDriver(unit.device, this.vm.memory.guest, base + 0x10_0000));
      this.pools.push({ next: base + AT_POOL });
    }
  }

  get g(): GuestDriver {
    return this.guests[0]!;
  }

  plug(rid: number, unit = 0, description: object = {}): UnitFunction {
    return this.units[unit]!.addFunction([rid], [hostRid(rid)], { name: `dev${rid}`, ...description });
  }

  /** A page for a table. */
  page(unit = 0): number {
    const pool = this.pools[unit]!;
    pool.next += 4096;
    return pool.next - 4096;
  }

  /** Legacy context of a function: second-stage table `root`, domain `did`. */
  legacy(rid: number, did: number, root: number, unit = 0): void {
    const g = this.guests[unit]!;
    const base = unit * UNIT_SPACE;
    g.store(base + AT_ROOT + 16 * (rid >> 8), BigInt(base + AT_CONTEXT) | 1n, 0n);
    g.store(base + AT_CONTEXT + 16 * (rid & 0xff), BigInt(root) | 1n, BigInt(did << 8) | 2n);
  }

  /** Scalable context of a function (devfn < 0x80), and one PASID entry of the table all functions share. */
  scalable(rid: number, pasid: number, entry: readonly bigint[], unit = 0): void {
    const g = this.guests[unit]!;
    const base = unit * UNIT_SPACE;
    // DTE, PASIDE and PRE as far as ECAP says that the unit has device TLBs (DT), PASIDs (PASID) and page requests (PRS).
    const ecap = g.r64(0x10);
    const bits = 1n | (ecap & 4n) | (((ecap >> 40n) & 1n) << 3n) | (((ecap >> 29n) & 1n) << 4n);
    g.store(base + AT_ROOT + 16 * (rid >> 8), BigInt(base + AT_CONTEXT) | 1n, 0n);
    g.store(base + AT_CONTEXT + 32 * (rid & 0x7f), BigInt(base + AT_DIR) | bits, 0n, 0n, 0n);
    g.store(base + AT_DIR, BigInt(base + AT_PASIDS) | 1n);
    g.store(base + AT_PASIDS + 64 * pasid, ...entry, ...Array<bigint>(8 - entry.length).fill(0n));
  }

  /** RTADDR value of a unit. */
  root(ttm = 0, unit = 0): bigint {
    return BigInt(unit * UNIT_SPACE + AT_ROOT) | BigInt(ttm << 10);
  }

  /** One DMA access. @returns the guest-physical address it reached, or a text for what became of it. */
  dma(rid: number, iova: number, access: number = ACCESS.WRITE, pasid = NO_PASID, unit = 0): number | string {
    const hw = this.units[unit]!.hardware;
    const r = hw.translate(hostRid(rid), pasid, iova | 0, (iova / 2 ** 32) | 0, access, AT.UNTRANSLATED);
    if (r === DMA.OK) return this.vm.memory.gpaOf(hw.out);
    return Object.entries(DMA).find(([, v]) => v === r)![0];
  }

  /** Host operations since the last call, by verb. */
  hostOps(): Record<string, number> {
    const ops: Record<string, number> = {};
    for (const s of this.said) if (s.what === 'host') ops[s.verb] = (ops[s.verb] ?? 0) + 1;
    this.said.length = 0;
    return ops;
  }
}

/** A first-stage PASID entry: domain and table. */
export const FIRST = (did: number, root: number): bigint[] => [0x49n, BigInt(did), BigInt(root)];
/** A second-stage one. */
export const SECOND = (did: number, root: number): bigint[] => [BigInt(root) | 0x89n, BigInt(did)];
export const PASS_THROUGH: readonly bigint[] = [0x109n, 1n];

/** An endpoint that holds back its invalidation completions until `answer`. */
export class SlowEndpoint implements EndpointPort {
  readonly asked: { rid: number; pasid: number; itag: number; lo: number; hi: number }[] = [];
  readonly responses: string[] = [];
  readonly #unit: VtdUnit;

  constructor(unit: VtdUnit) {
    this.#unit = unit;
    unit.endpoints.to = this;
  }

  invalidate(rid: number, pasid: number, itag: number, lo: number, hi: number): boolean {
    this.asked.push({ rid, pasid, itag, lo, hi });
    return true;
  }
  /** Completes everything asked so far. */
  answer(): void {
    for (const a of this.asked.splice(0)) this.#unit.hardware.invalidateCompletion(a.rid, (1 << a.itag) >>> 0, 1);
  }
  pageResponse(rid: number, pasid: number, group: number, code: number): void {
    this.responses.push(`${rid.toString(16)} ${pasid} ${group} ${code}`);
  }
  resumed(): void {}
}
