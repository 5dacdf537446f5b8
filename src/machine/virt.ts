import { Ecam } from '../../bus/config-access.ts';
import { PciWindowSpace } from '../../bus/decode.ts';
import type { InterruptPort } from '../ports/irq.ts';
import type { MmioDevice } from '../ports/mmio.ts';
import { Board, type BoardDeps, type RamPiece } from './board.ts';
import { FixedFunction } from './fixed-function.ts';
import { Quiet } from './quiet.ts';

/** Guest-physical addresses of QEMU's `virt` (bytes). */
// biome-ignore format: table
export const VIRT = {
  GIC: 0x0800_0000, GIC_BYTES: 0x0100_0000, ITS: 0x0808_0000, ITS_BYTES: 0x2_0000, V2M: 0x0802_0000, DOORBELL: 0x0809_0040,
  SMMU: 0x0905_0000, PCI: 0x1000_0000, PCI_BYTES: 0x2eff_0000, PIO: 0x3eff_0000, PIO_BYTES: 0x1_0000,
  RAM: 0x4000_0000, ECAM: 0x40_1000_0000, ECAM_BYTES: 0x1000_0000, PCI64: 0x80_0000_0000, PCI64_BYTES: 0x80_0000_0000,
  /** Further SMMUs of `-device arm-smmuv3`, 128 KiB each. */
  SMMU_DEVICES: 0x0c00_0000,
} as const;

/** What `virt` has besides: it answers, with nothing behind it (flash, GIC frames, UART, RTC, fw_cfg, GPIO, virtio-mmio). */
// biome-ignore format: table
export const QUIET: readonly (readonly [base: number, bytes: number])[] = [
  [0x0000_0000, 0x0800_0000], [0x0800_0000, 0x1_0000], [0x080a_0000, 0xf6_0000], [0x0900_0000, 0x1000], [0x0901_0000, 0x1000],
  [0x0902_0000, 0x1000], [0x0903_0000, 0x1000], [0x0a00_0000, 0x4000],
];

/** RAM of `virt`: one piece from 1 GiB on. */
export function virtRam(bytes: number): readonly RamPiece[] {
  return [{ base: VIRT.RAM, bytes }];
}

/** GITS_TRANSLATER, offset in the ITS's two frames. */
const TRANSLATER = VIRT.DOORBELL - VIRT.ITS;

/** The ITS as far as the bus needs it: a 4-byte write into GITS_TRANSLATER is a message. */
class ItsDoorbell implements MmioDevice {
  readonly name = 'its';
  readonly bytes = VIRT.ITS_BYTES;
  readonly #irq: InterruptPort | null;

  constructor(irq: InterruptPort | null) {
    this.#irq = irq;
  }

  read(): number {
    return 0;
  }

  read64(_offset: number, out: Int32Array): void {
    out.fill(0);
  }

  write(offset: number, size: number, lo: number): void {
    if (offset === TRANSLATER && size >= 4) this.#irq?.message(VIRT.DOORBELL, lo >>> 0);
  }
}

/** QEMU's `virt`: ECAM at 256 GiB + 256 MiB, generic host bridge at 00.0, PCI windows that read as ones where nothing is. */
export function createVirt(deps: BoardDeps): Board {
  const board = new Board('virt', deps, false);
  const { complex, map } = board;
  for (const [base, bytes] of QUIET) map.attach(base, new Quiet(bytes), 4);
  map.attach(VIRT.ITS, new ItsDoorbell(deps.irq), 4);
  const unclaimed = 0xffff_ffff;
  const pci = (base: number, bytes: number) => new PciWindowSpace(complex, { base, bytes, unclaimed });
  map.attach(VIRT.PCI, pci(VIRT.PCI, VIRT.PCI_BYTES), 4);
  map.attach(VIRT.PIO, new PciWindowSpace(complex, { base: 0, bytes: VIRT.PIO_BYTES, unclaimed, io: true }), 4);
  map.attach(VIRT.ECAM, new Ecam(complex), 4);
  map.attach(VIRT.PCI64, pci(VIRT.PCI64, VIRT.PCI64_BYTES), 4);
  board.plug(new FixedFunction('gpex', { vendor: 0x1b36, device: 0x0008, classCode: 0x060000 }), 0);
  if (deps.nic === true) board.plug(new FixedFunction('nic', { vendor: 0x1af4, device: 0x1000, classCode: 0x020000 }));
  return board;
}
