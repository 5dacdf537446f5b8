import { extendedCapability } from '../src/lib/pci/capability-list.ts';
import { AT, DMA, NO_PASID } from '../src/ports/dma.ts';
import type { PciFunction } from '../src/ports/pci.ts';
import { ACS_CAP, EXT, PASID_CAP } from '../src/spec/pcie/capabilities.ts';
import { COMMAND, HEADER } from '../src/spec/pcie/header.ts';
import type { Fabric, Sender } from './fabric.ts';
import type { Root, Slice, Slot } from './topology.ts';

/** No PASID that could be on the wire: one a slice has not set up, or one the function cannot have. Nothing is sent under it. */
export const NOT_SET_UP = -2;

/** Where requests of one function leave its link, under one of its requester ids: as whom, and whether at all. */
export class Departure implements Sender {
  /** A requester id the function pretends to have (hardware numbering); -1: its own. Source validation stops it. */
  forged = -1;
  /** Requests leave although COMMAND.MASTER is off (QEMU's iommu-testdev). */
  ignoreMaster = false;
  /** The function was taken out: nothing leaves any more. */
  cut = false;
  readonly #fabric: Fabric;
  readonly #slot: Slot;
  /** Which of the slot's requester ids. */
  readonly #index: number;
  readonly #slice: Slice | null;
  /** Its own requester id (hardware numbering). */
  readonly #stream: number;
  /** The function whose link carries the requests: for a slice its parent. */
  readonly #sender: Slot;
  /** One more than the largest PASID the function can send, by its capability; -1: not looked at yet. */
  #pasids = -1;

  constructor(fabric: Fabric, slot: Slot, index: number) {
    this.#fabric = fabric;
    this.#slot = slot;
    this.#index = index;
    this.#slice = slot.slice;
    this.#stream = slot.streams[index]!;
    this.#sender = slot.slice?.parent ?? slot;
  }

  /** Requester id the IOMMU sees (hardware numbering). */
  get stream(): number {
    return this.forged >= 0 ? this.forged : this.#stream;
  }

  /** Requester id as software sees it now, behind bridges the bridge's. */
  get requester(): number {
    return this.#slot.aliasRidOf(this.#index);
  }

  /** The PASID on the wire of what the function sends under `pasid`, or NOT_SET_UP. */
  pasid(pasid: number): number {
    const slice = this.#slice;
    if (pasid !== NO_PASID && !this.#has(pasid)) return NOT_SET_UP;
    if (slice === null) return pasid;
    const host = pasid === NO_PASID ? slice.pasid : slice.hostPasid(pasid);
    return host < 0 ? NOT_SET_UP : host;
  }

  #has(pasid: number): boolean {
    if (this.#pasids < 0) this.#pasids = pasidsOf(this.#slot.fn);
    return pasid >= 0 && pasid < this.#pasids;
  }

  /** Nothing can be sent under a PASID: for one that a slice could have, its IOMMU says why not. */
  refuse(pasid: number, lo: number, hi: number, access: number): void {
    if (this.#slice === null || !this.#has(pasid) || !this.may(AT.UNTRANSLATED)) return;
    this.#slice.refused(pasid, lo, hi, access);
  }

  /**
   * Whether a request gets off the link and through the ports above.
   * @param at AT value. Translation Blocking refuses everything but untranslated requests (PCIe §6.12.1.2).
   */
  may(at: number): boolean {
    if (this.cut) return false;
    if (!this.ignoreMaster && (this.#slot.fn.configRead(HEADER.COMMAND, 2) & COMMAND.MASTER) === 0) return false;
    const sender = this.#sender;
    if (sender.bus.parent === null) return true;
    if (!sender.forwarded) return false;
    const acs = sender.acs;
    if (at !== AT.UNTRANSLATED && (acs & ACS_CAP.TB) !== 0) return this.#violation();
    if (this.forged >= 0 && (acs & ACS_CAP.SV) !== 0) {
      const bus = this.forged >>> 8;
      if (bus !== sender.bus.hostNumber) return this.#violation();
    }
    return true;
  }

  #violation(): boolean {
    this.#sender.bus.parent!.bridge!.violation();
    return false;
  }

  /** A translated address that nobody gave to this machine: refused, and told at the port above. @returns a DMA value. */
  refuseForgery(): number {
    this.#fabric.forgeries++;
    this.#sender.bus.parent?.bridge?.violation();
    return DMA.ABORT;
  }
}

/** PASIDs of a function by its capability (PCIe §7.8.9); 0: it has none. */
function pasidsOf(fn: PciFunction): number {
  const at = extendedCapability(fn, EXT.PASID);
  return at === 0 ? 0 : 2 ** ((fn.configRead(at + PASID_CAP.CAP, 2) >>> 8) & 0x1f);
}

/** Takes a message through interrupt remapping, if there is any, to the interrupt controller. @returns a DMA value. */
export function deliverInterrupt(fabric: Fabric, root: Root, rid: number, address: number, data: number): number {
  const { irq } = fabric;
  const { remap } = root.iommu;
  if (remap === null) return irq === null || irq.message(address, data) ? DMA.OK : DMA.ABORT;
  if (!remap.remap(rid, address, data)) return DMA.ABORT;
  if (remap.posted === true) return DMA.OK;
  return irq === null || irq.message(remap.outAddress, remap.outData) ? DMA.OK : DMA.ABORT;
}
