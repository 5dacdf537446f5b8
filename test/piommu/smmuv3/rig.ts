import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { AddressSpace, ramBacking } from '../../../src/lib/memory/address-space.ts';
import { PhysicalSmmuv3 } from '../../../src/piommu/smmuv3/device.ts';
import type { PhysicalSmmuv3Options } from '../../../src/piommu/smmuv3/options.ts';
import { ACCESS, AT, type EndpointPort, NO_PASID } from '../../../src/ports/dma.ts';
import type { HwEvents } from '../../../src/ports/hw.ts';
import { OP } from '../../../src/spec/smmuv3/commands.ts';
import { CR0, CR2, PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { bump, S2_RW, TableWriter } from '../../support/vmsa-tables.ts';

export const RAM = 0x4000_0000;
export const RAM_BYTES = 64 << 20;
export const STRTAB = 0x4010_0000;

/** Identity registers of QEMU's `virt` machine: no ATS, PRI, stalls or substreams. */
export const QEMU_IDRS = { idr0: 0x0d44_101b, idr1: 0x0273_0010, idr3: 0x1414, idr5: 0x74 };
/**
 * Everything the model can do: ATS, PRI, two-level CDs, stalls beside termination, RAZ/WI, HTTU, ATSRECERR, 20-bit
 * SubstreamIDs, 48-bit addresses.
 */
export const FULL_IDRS = {
  idr0: (0x0845_143b & ~(3 << 24) & ~(1 << 26)) | (2 << 6) | (1 << 16) | (1 << 19) | (1 << 23),
  idr1: 0x0273_0010 | (20 << 6) | (19 << 11),
  idr3: 0x1414,
  idr5: 0x75 | (4 << 16),
};

/** Puts the halves of 64-bit words one after the other. */
export function words(...wide: bigint[]): Int32Array {
  const out = new Int32Array(wide.length * 2);
  wide.forEach((w, i) => {
    out[2 * i] = Number(w & 0xffff_ffffn) | 0;
    out[2 * i + 1] = Number((w >> 32n) & 0xffff_ffffn) | 0;
  });
  return out;
}

/** A record or command as the specification prints it: 64-bit words. */
export function wide(r: ArrayLike<number>): bigint[] {
  const out: bigint[] = [];
  for (let i = 0; i < r.length; i += 2) out.push((BigInt(r[i + 1]! >>> 0) << 32n) | BigInt(r[i]! >>> 0));
  return out;
}

export interface Message {
  readonly what: 'invalidate' | 'response' | 'resumed';
  readonly args: readonly (number | boolean)[];
}

export interface RigOptions extends PhysicalSmmuv3Options {
  /** Entries of the PRI queue, a power of two (512). */
  readonly priEntries: number;
}

/** Where the stream table lies. */
interface StreamTable {
  readonly base: number;
  readonly log2size: number;
  readonly twoLevel: boolean;
  readonly split?: number;
}

/** Bits of CR0 and CR2 by name. */
interface Controls {
  readonly smmuen?: boolean;
  readonly priqen?: boolean;
  readonly atschk?: boolean;
  readonly recCfgAts?: boolean;
}

/** A host and functions that note everything, and answer as a test says. */
export class Rig {
  readonly memory = new AddressSpace();
  readonly clock = new VirtualClock();
  readonly hw: PhysicalSmmuv3;
  readonly faults: bigint[][] = [];
  readonly pages: bigint[][] = [];
  readonly streamMisses: [number, number][] = [];
  readonly stageTwoMisses: [ipa: number, access: number][] = [];
  readonly completed: [token: number, error: number, rid: number][] = [];
  readonly messages: Message[] = [];
  onStreamMiss: (rid: number, pasid: number) => boolean = () => false;
  onStageTwoMiss: (ipa: number, access: number) => boolean = () => false;
  /** What a function does with an Invalidate Request; false: nobody there. */
  onInvalidate: (rid: number, itag: number) => boolean = (rid, itag) => {
    this.hw.invalidateCompletion(rid, 1 << itag, 1);
    return true;
  };

  constructor(options: Partial<RigOptions> = {}) {
    this.memory.addRam(RAM, RAM_BYTES, ramBacking(RAM_BYTES));
    const events: HwEvents = {
      streamMiss: (rid, pasid) => {
        this.streamMisses.push([rid, pasid]);
        return this.onStreamMiss(rid, pasid);
      },
      stageTwoMiss: (_rid, _pasid, ipa, access) => {
        this.stageTwoMisses.push([ipa, access]);
        return this.onStageTwoMiss(ipa, access);
      },
      fault: (r) => void this.faults.push(wide(r)),
      pageRequest: (r) => void this.pages.push(wide(r)),
      completed: (token, error, rid) => void this.completed.push([token, error, rid]),
    };
    const endpoints: EndpointPort = {
      invalidate: (rid, pasid, itag, lo, hi, global) => {
        this.messages.push({ what: 'invalidate', args: [rid, pasid, itag, lo, hi, global] });
        return this.onInvalidate(rid, itag);
      },
      pageResponse: (...args) => void this.messages.push({ what: 'response', args }),
      resumed: (...args) => void this.messages.push({ what: 'resumed', args }),
    };
    const base = { memory: this.memory, events, clock: this.clock, endpoints, ...QEMU_IDRS };
    this.hw = new PhysicalSmmuv3({ ...base, ...options });
    this.switchOn(options.priEntries ?? 512);
  }

  /** Programs everything there is, the stream table at STRTAB. */
  switchOn(priEntries = 512): void {
    const { hw } = this;
    hw.writeRegister(PAGE0.CR0.at, 0n);
    hw.writeRegister(PAGE0.CR2.at, BigInt(CR2.RECINVSID));
    hw.writeRegister(PAGE0.PRIQ_BASE.at, BigInt(Math.log2(priEntries)));
    hw.writeRegister(PAGE0.IRQ_CTRL.at, 7n);
    hw.writeRegister(PAGE0.CR0.at, 0x1fn);
    this.streamTable({ base: STRTAB, log2size: 4, twoLevel: false });
  }

  /** Points the SMMU at a stream table, and makes it forget what it knew. */
  streamTable({ base, log2size, twoLevel, split }: StreamTable): void {
    this.#whileOff(() => {
      this.hw.writeRegister(PAGE0.STRTAB_BASE.at, BigInt(base));
      const cfg = log2size | ((split ?? 0) << 6) | (twoLevel ? 1 << 16 : 0);
      this.hw.writeRegister(PAGE0.STRTAB_BASE_CFG.at, BigInt(cfg));
    });
    this.submit(cfgiAll());
  }

  /** Switches what is named; what is left out stays. */
  control(c: Controls): void {
    const set = (at: number, bit: number, on: boolean | undefined) => {
      const old = this.hw.readRegister(at);
      if (on !== undefined) this.hw.writeRegister(at, on ? old | BigInt(bit) : old & ~BigInt(bit));
    };
    if (c.recCfgAts !== undefined) this.#whileOff(() => set(PAGE0.CR2.at, CR2.REC_CFG_ATS, c.recCfgAts));
    set(PAGE0.CR0.at, CR0.SMMUEN, c.smmuen);
    set(PAGE0.CR0.at, CR0.PRIQEN, c.priqen);
    set(PAGE0.CR0.at, CR0.ATSCHK, c.atschk);
  }

  #whileOff(action: () => void): void {
    const on = this.hw.readRegister(PAGE0.CR0.at);
    this.hw.writeRegister(PAGE0.CR0.at, on & ~BigInt(CR0.SMMUEN));
    action();
    this.hw.writeRegister(PAGE0.CR0.at, on);
  }

  store(address: number, ...wide64: bigint[]): void {
    const w = words(...wide64);
    for (let i = 0; i < w.length; i++) this.memory.store32(address + 4 * i, w[i]!);
  }

  ste(sid: number, ...wide64: bigint[]): void {
    this.store(STRTAB + sid * 64, ...wide64);
  }

  /** One transaction. @returns the DMA value. */
  dma(
    sid: number,
    iova: bigint,
    access: number = ACCESS.WRITE,
    pasid: number = NO_PASID,
    at: number = AT.UNTRANSLATED,
  ) {
    const [lo, hi] = words(BigInt.asUintN(64, iova));
    return this.hw.translate(sid, pasid, lo!, hi!, access, at);
  }

  ats(sid: number, iova: bigint, access: number = ACCESS.READ, pasid: number = NO_PASID) {
    const [lo, hi] = words(BigInt.asUintN(64, iova));
    return this.hw.translationRequest(sid, pasid, lo!, hi!, access);
  }

  /** Submits commands given as pairs of 64-bit words. @returns the error. */
  submit(...commands: (readonly [bigint, bigint])[]): number {
    this.hw.submit(words(...commands.flat()), 0, commands.length);
    return this.hw.error;
  }

  /** Takes the records noted so far. */
  takeFaults(): bigint[][] {
    return this.faults.splice(0);
  }
}

export const cfgiSte = (sid: number) => [(BigInt(sid) << 32n) | BigInt(OP.CFGI_STE), 1n] as const;
export const cfgiAll = () => [BigInt(OP.CFGI_STE_RANGE), 31n] as const;
export const cfgiCd = (sid: number, ssid = 0) =>
  [(BigInt(sid) << 32n) | (BigInt(ssid) << 12n) | BigInt(OP.CFGI_CD), 1n] as const;
export const cfgiCdAll = (sid: number) => [(BigInt(sid) << 32n) | BigInt(OP.CFGI_CD_ALL), 0n] as const;
export const tlbi = (op: number, vmid: number, asid: number, address = 0n, low = 0n) =>
  [(BigInt(asid) << 48n) | (BigInt(vmid) << 32n) | BigInt(op) | low, address] as const;

/** CD word 0 of the golden recordings: T0SZ 25, 4K, EPD1, V, IPS 4 (44 bits), AA64, R, A, ASID 0x11. */
export const CD0 = 0x0011_6204_c000_0019n;
/** STE words 2 and 3 of the golden recordings: VMID 7, S2T0SZ 25, SL0 1, 4K, PS 4, AA64, S2R; table at 0x40600000. */
export const STE_S2: readonly [bigint, bigint] = [0x040c_0059_0000_0007n, 0x4060_0000n];

/** Stage-2 tables for the golden STE: 39 bits, start level 1. */
export function stage2Tables(rig: Rig): TableWriter {
  return new TableWriter(rig.memory, 12, 39, 1, 0x4060_0000, bump(0x4061_0000, 4096));
}

/** Stage-1 tables for the golden CD with TTB0 `base`; `place` maps an IPA to where it lies in memory. */
export function stage1Tables(rig: Rig, base = 0x4041_0000, place: (a: number) => number = (a) => a): TableWriter {
  return new TableWriter(rig.memory, 12, 39, 1, base, bump(base + 0x1_0000, 4096), place);
}

/** Maps the whole RAM one to one by 2 MiB blocks of stage 2. */
export function identityStage2(rig: Rig): TableWriter {
  const tables = stage2Tables(rig);
  for (let a = RAM; a < RAM + RAM_BYTES; a += 1 << 21) tables.map(BigInt(a), a, 2, S2_RW);
  return tables;
}
