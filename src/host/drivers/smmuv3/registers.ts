import { ViommuError } from '../../../core/errors.ts';
import type { HwRegisters } from '../../../ports/hw.ts';
import { OP, RANGE_ALL } from '../../../spec/smmuv3/commands.ts';
import { CR0, CR2, IRQ_CTRL, PAGE0, PAGE1, PAGE1_BASE } from '../../../spec/smmuv3/registers.ts';
import type { Smmuv3DriverFeatures, Smmuv3DriverIdentity } from './features.ts';
import type { Smmuv3DriverQueue } from './queue.ts';

/** How often an acknowledge register is read before the SMMU counts as dead. */
const POLLS = 100;
/** Inner-shareable, write-back tables and queues: every field of CR1. */
const CR1_CACHEABLE = 0xd75;
/** STRTAB_BASE.RA: reads allocate. */
const READ_ALLOCATE = 1n << 62n;

/** The stream table as the registers want it. */
export interface StreamTableRegisters {
  /** Host-physical address of the (level-1) table. */
  readonly base: number;
  /** STRTAB_BASE_CFG. */
  readonly config: number;
}

/** Reads what the SMMU says it is. */
export function readSmmuv3Identity(hw: HwRegisters): Smmuv3DriverIdentity {
  const { IDR0, IDR1, IDR2, IDR3, IDR4, IDR5, IIDR, AIDR } = PAGE0;
  const read = (r: { readonly at: number }): number => Number(hw.readRegister(r.at));
  return {
    idr: [read(IDR0), read(IDR1), read(IDR2), read(IDR3), read(IDR4), read(IDR5)],
    iidr: read(IIDR),
    aidr: read(AIDR),
  };
}

/**
 * Programs an SMMU from whatever state it is in, in the kernel's order (`arm_smmu_device_reset`): off, attributes, stream
 * table, command queue, everything cached forgotten, event and PRI queue, interrupts, and translation last. Queue entries
 * travel through `HwPort.submit` and `HwEvents`, so the queues get a size and no address.
 * @throws ViommuError `ETIMEDOUT`: a control register was not acknowledged; `EIO`: the first commands failed.
 */
export class Smmuv3DriverRegisters {
  readonly #hw: HwRegisters;
  readonly #features: Smmuv3DriverFeatures;
  readonly #queue: Smmuv3DriverQueue;

  constructor(hw: HwRegisters, features: Smmuv3DriverFeatures, queue: Smmuv3DriverQueue) {
    this.#hw = hw;
    this.#features = features;
    this.#queue = queue;
  }

  /**
   * @param recordsAts configuration faults of translation requests are recorded, for device models whose guests ask for it; Linux
   *   leaves them off.
   */
  start(table: StreamTableRegisters, recordsAts: boolean): void {
    const { ats, pri, queueLog2 } = this.#features;
    this.#control(0);
    this.#write(PAGE0.CR1.at, CR1_CACHEABLE);
    this.#write(PAGE0.CR2.at, CR2.PTM | CR2.RECINVSID | (recordsAts ? CR2.REC_CFG_ATS : 0));
    this.#hw.writeRegister(PAGE0.STRTAB_BASE.at, BigInt(table.base) | READ_ALLOCATE);
    this.#write(PAGE0.STRTAB_BASE_CFG.at, table.config);

    let on: number = CR0.CMDQEN;
    this.#write(PAGE0.CMDQ_BASE.at, queueLog2.commands);
    this.#write(PAGE0.CMDQ_PROD.at, 0);
    this.#write(PAGE0.CMDQ_CONS.at, 0);
    this.#control(on);
    this.#queue.add(OP.CFGI_STE_RANGE, 0, RANGE_ALL, 0);
    this.#queue.add(OP.TLBI_NSNH_ALL, 0, 0, 0);
    if (this.#queue.sync() !== 0) throw new ViommuError('EIO', 'host', 'the SMMU refuses its first invalidations');

    on |= CR0.EVENTQEN;
    this.#write(PAGE0.EVENTQ_BASE.at, queueLog2.events);
    this.#write(PAGE1_BASE + PAGE1.EVENTQ_PROD.at, 0);
    this.#write(PAGE1_BASE + PAGE1.EVENTQ_CONS.at, 0);
    this.#control(on);
    if (pri) {
      on |= CR0.PRIQEN;
      this.#write(PAGE0.PRIQ_BASE.at, queueLog2.pageRequests);
      this.#write(PAGE1_BASE + PAGE1.PRIQ_PROD.at, 0);
      this.#write(PAGE1_BASE + PAGE1.PRIQ_CONS.at, 0);
      this.#control(on);
    }
    if (ats) {
      // Before translation is on, so that no translated request passes unchecked.
      on |= CR0.ATSCHK;
      this.#control(on);
    }
    this.#interrupts(IRQ_CTRL.GERROR_IRQEN | IRQ_CTRL.EVENTQ_IRQEN | (pri ? IRQ_CTRL.PRIQ_IRQEN : 0));
    this.#control(on | CR0.SMMUEN);
  }

  #write(offset: number, value: number): void {
    this.#hw.writeRegister(offset, BigInt(value >>> 0));
  }

  #control(value: number): void {
    this.#acknowledged(PAGE0.CR0.at, PAGE0.CR0ACK.at, value);
  }

  #interrupts(value: number): void {
    this.#acknowledged(PAGE0.IRQ_CTRL.at, PAGE0.IRQ_CTRLACK.at, 0);
    this.#acknowledged(PAGE0.IRQ_CTRL.at, PAGE0.IRQ_CTRLACK.at, value);
  }

  /** Writes a control register and waits until its acknowledge register shows the same. */
  #acknowledged(at: number, ack: number, value: number): void {
    this.#write(at, value);
    for (let n = 0; n < POLLS; n++) if (Number(this.#hw.readRegister(ack)) === value) return;
    throw new ViommuError('ETIMEDOUT', 'host', 'the SMMU does not acknowledge', { register: at, value });
  }
}
