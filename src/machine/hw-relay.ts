import type { EndpointPort } from '../ports/dma.ts';
import type { HwEvents } from '../ports/hw.ts';

/**
 * The hardware is built before the driver that handles its interrupts: this stands in its place and passes everything on.
 * Before a driver is there nothing is configured, and every access misses.
 */
export class HwRelay implements HwEvents {
  /** The driver's handlers; null until it is probed. */
  to: HwEvents | null = null;

  streamMiss(rid: number, pasid: number): boolean {
    return this.to?.streamMiss(rid, pasid) ?? false;
  }
  stageTwoMiss(rid: number, pasid: number, ipa: number, access: number, lo: number, hi: number): boolean {
    return this.to?.stageTwoMiss(rid, pasid, ipa, access, lo, hi) ?? false;
  }
  fault(record: Int32Array, ats?: boolean): void {
    this.to?.fault(record, ats);
  }
  pageRequest(record: Int32Array): void {
    this.to?.pageRequest(record);
  }
  completed(token: number, error: number, rid: number): void {
    this.to?.completed(token, error, rid);
  }
  unexpectedCompletion(rid: number): void {
    this.to?.unexpectedCompletion?.(rid);
  }
}

/** The same towards the bus, which is built after the hardware. Without a bus no function answers. */
export class EndpointRelay implements EndpointPort {
  /** The bus; null until it is built. */
  to: EndpointPort | null = null;

  invalidate(rid: number, pasid: number, itag: number, lo: number, hi: number, global: boolean): boolean {
    return this.to?.invalidate(rid, pasid, itag, lo, hi, global) ?? false;
  }
  pageResponse(rid: number, pasid: number, group: number, code: number): void {
    this.to?.pageResponse(rid, pasid, group, code);
  }
  resumed(rid: number, token: number, outcome: number): void {
    this.to?.resumed(rid, token, outcome);
  }
}
