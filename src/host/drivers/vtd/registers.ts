import { ViommuError } from '../../../core/errors.ts';
import type { HwRegisters } from '../../../ports/hw.ts';
import { GCMD, PAGE, TTM } from '../../../spec/vtd/registers.ts';
import type { VtdDriverQueue } from './queue.ts';

/** How often GSTS is read before the unit counts as dead. */
const POLLS = 100;
/** IQA.DW: 256-bit descriptors. */
const WIDE = 1n << 11n;

/** What the unit says it is. */
export function readVtdIdentity(hw: HwRegisters): { readonly cap: bigint; readonly ecap: bigint } {
  return { cap: hw.readRegister(PAGE.CAP.at), ecap: hw.readRegister(PAGE.ECAP.at) };
}

/**
 * Programs a unit from whatever state it is in, in the kernel's order (`init_dmars`): invalidation queue, root table,
 * everything cached forgotten, page requests and interrupts, and translation last. Queue entries travel through
 * `HwPort.submit` and `HwEvents`, so the queues get no address.
 * @throws ViommuError `ETIMEDOUT`: GSTS does not show what GCMD asked for; `EIO`: the first descriptors failed.
 */
export class VtdDriverRegisters {
  readonly #hw: HwRegisters;
  readonly #queue: VtdDriverQueue;
  /** Levels of GCMD that are on: every write has to repeat them. */
  #on = 0;

  constructor(hw: HwRegisters, queue: VtdDriverQueue) {
    this.#hw = hw;
    this.#queue = queue;
  }

  /** @param root host-physical address of the root table. @param pageRequests the unit has a page-request queue. */
  start(root: number, pageRequests: boolean): void {
    const hw = this.#hw;
    hw.writeRegister(PAGE.IQT.at, 0n);
    hw.writeRegister(PAGE.IQA.at, WIDE);
    this.#level(GCMD.QIE);
    hw.writeRegister(PAGE.RTADDR.at, BigInt(root) | (BigInt(TTM.SCALABLE) << 10n));
    this.#command(this.#on | GCMD.SRTP, GCMD.SRTP);
    this.#queue.contextGlobal();
    this.#queue.pasidCacheGlobal();
    this.#queue.iotlbGlobal();
    if (this.#queue.flush() !== 0) throw new ViommuError('EIO', 'host', 'the unit refuses its first invalidations');
    if (pageRequests) {
      hw.writeRegister(PAGE.PQH.at, 0n);
      hw.writeRegister(PAGE.PQT.at, 0n);
      hw.writeRegister(PAGE.PECTL.at, 0n);
    }
    hw.writeRegister(PAGE.FECTL.at, 0n);
    this.#level(GCMD.TE);
  }

  /** Switches one level on. */
  #level(bit: number): void {
    this.#on |= bit;
    this.#command(this.#on, bit);
  }

  /** Writes GCMD and waits until GSTS shows `bit`. */
  #command(value: number, bit: number): void {
    this.#hw.writeRegister(PAGE.GCMD.at, BigInt(value >>> 0));
    for (let n = 0; n < POLLS; n++) {
      if ((Number(this.#hw.readRegister(PAGE.GSTS.at)) & bit) !== 0) return;
    }
    throw new ViommuError('ETIMEDOUT', 'host', 'the unit does not acknowledge', { command: value >>> 0 });
  }
}
