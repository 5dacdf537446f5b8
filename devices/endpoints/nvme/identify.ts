import { CQE_BYTES, LBA_SHIFT, SQE_BYTES } from '../../../src/spec/nvme/registers.ts';
import { MDTS } from './transfer.ts';

/** Who the controller says it is. */
export interface NvmeIdentity {
  /** PCI Vendor ID. */
  readonly vendor: number;
  /** At most 20 ASCII characters. */
  readonly serial: string;
  /** At most 40. */
  readonly model: string;
  /** At most 8. */
  readonly firmware: string;
}

function text(into: Uint8Array, at: number, width: number, s: string): void {
  const padded = s.padEnd(width).slice(0, width);
  for (let i = 0; i < width; i++) into[at + i] = padded.charCodeAt(i) & 0x7f;
}

function put(into: Uint8Array, at: number, bytes: number, value: number): void {
  for (let i = 0; i < bytes; i++) into[at + i] = Math.floor(value / 2 ** (8 * i)) % 256;
}

/** Identify Controller data structure (§5.15.2.1), 4096 bytes. */
export function identifyController(into: Uint8Array, id: NvmeIdentity): void {
  into.fill(0, 0, 4096);
  put(into, 0, 2, id.vendor);
  put(into, 2, 2, id.vendor);
  text(into, 4, 20, id.serial);
  text(into, 24, 40, id.model);
  text(into, 64, 8, id.firmware);
  into[77] = MDTS;
  put(into, 80, 4, 0x0001_0400);
  into[259] = 3; // AERL: four asynchronous events outstanding
  into[260] = 2; // FRMW: one slot
  put(into, 266, 2, 343); // WCTEMP
  put(into, 268, 2, 353); // CCTEMP
  into[512] = (Math.log2(SQE_BYTES) << 4) | Math.log2(SQE_BYTES);
  into[513] = (Math.log2(CQE_BYTES) << 4) | Math.log2(CQE_BYTES);
  put(into, 516, 4, 1); // NN
  put(into, 520, 2, 1 << 3); // ONCS: Write Zeroes
  into[525] = 1; // VWC: present
  put(into, 536, 4, (1 << 0) | (1 << 16)); // SGLS: any alignment, bit bucket
  text(into, 768, 256, `nqn.2014-08.org.nvmexpress:viommu:${id.serial}`);
  into.fill(0, 768 + 35 + id.serial.length, 1024);
}

/** Identify Namespace data structure (§5.15.2.2). */
export function identifyNamespace(into: Uint8Array, blocks: number): void {
  into.fill(0, 0, 4096);
  put(into, 0, 8, blocks);
  put(into, 8, 8, blocks);
  put(into, 16, 8, blocks);
  into[128 + 2] = LBA_SHIFT;
}

/** Namespace Identification Descriptor list (§5.15.2.3): a UUID made of the serial number. */
export function identifyDescriptors(into: Uint8Array, id: NvmeIdentity): void {
  into.fill(0, 0, 4096);
  into[0] = 3;
  into[1] = 16;
  text(into, 4, 16, id.serial);
}
