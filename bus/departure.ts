import { AT, DMA } from '../src/ports/dma.ts';
import { ACS_CAP } from '../src/spec/pcie/capabilities.ts';
import { COMMAND, HEADER } from '../src/spec/pcie/header.ts';
import type { Fabric } from './fabric.ts';
import type { Slot } from './topology.ts';

/** Where requests of one function leave its link: under which requester id, and whether at all. */
export class Departure {
  /** A requester id the function pretends to have (hardware numbering); -1: its own. Source validation stops it. */
  forged = -1;
  /** Requests leave although COMMAND.MASTER is off (QEMU's iommu-testdev). */
  ignoreMaster = false;
  /** The function was taken out: nothing leaves any more. */
  cut = false;
  readonly #fabric: Fabric;
  readonly #slot: Slot;

  constructor(fabric: Fabric, slot: Slot) {
    this.#fabric = fabric;
    this.#slot = slot;
  }

  /** Requester id the IOMMU sees (hardware numbering). */
  get stream(): number {
    return this.forged >= 0 ? this.forged : this.#slot.stream;
  }

  /**
   * Whether a request gets off the link and through the ports above.
   * @param at AT value. Translation Blocking refuses everything but untranslated requests (PCIe §6.12.1.2).
   */
  may(at: number): boolean {
    if (this.cut) return false;
    const slot = this.#slot;
    if (!this.ignoreMaster && (slot.fn.configRead(HEADER.COMMAND, 2) & COMMAND.MASTER) === 0) return false;
    if (slot.bus.parent === null) return true;
    if (!slot.forwarded) return false;
    const acs = slot.acs;
    if (at !== AT.UNTRANSLATED && (acs & ACS_CAP.TB) !== 0) return this.#violation();
    if (this.forged >= 0 && (acs & ACS_CAP.SV) !== 0) {
      const bus = this.forged >>> 8;
      if (bus !== slot.bus.hostNumber) return this.#violation();
    }
    return true;
  }

  #violation(): boolean {
    this.#slot.bus.parent!.bridge!.violation();
    return false;
  }

  /** A translated address that nobody gave to this machine: refused, and told at the port above. @returns a DMA value. */
  refuseForgery(): number {
    this.#fabric.forgeries++;
    this.#slot.bus.parent?.bridge?.violation();
    return DMA.ABORT;
  }
}

/** Takes a message through interrupt remapping, if there is any, to the interrupt controller. @returns a DMA value. */
export function deliverInterrupt(fabric: Fabric, slot: Slot, rid: number, address: number, data: number): number {
  const { irq } = fabric;
  const { remap } = slot.bus.root.iommu;
  if (remap === null) return irq === null || irq.message(address, data) ? DMA.OK : DMA.ABORT;
  if (!remap.remap(rid, address, data)) return DMA.ABORT;
  return irq === null || irq.message(remap.outAddress, remap.outData) ? DMA.OK : DMA.ABORT;
}
