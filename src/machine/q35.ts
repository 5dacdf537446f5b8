import { Ecam } from '../../bus/config-access.ts';
import { PciWindowSpace } from '../../bus/decode.ts';
import type { InterruptPort } from '../ports/irq.ts';
import type { MmioDevice } from '../ports/mmio.ts';
import { Board, type BoardDeps, type RamPiece } from './board.ts';
import { FixedFunction } from './fixed-function.ts';
import { Ioapic } from './ioapic.ts';
import { LowMemory, PAM_AREA } from './q35-low-memory.ts';
import { Quiet } from './quiet.ts';

/** Guest-physical addresses of QEMU's `q35` (bytes). */
// biome-ignore format: table
export const Q35 = {
  VGA: 0xa_0000, VGA_BYTES: 0x2_0000,
  IOAPIC: 0xfec0_0000, HPET: 0xfed0_0000, HPET_BYTES: 0x400, VTD: 0xfed9_0000, MSI: 0xfee0_0000, MSI_BYTES: 0x10_0000, ABOVE: 0x1_0000_0000,
  PCI64: 0x80_0000_0000, PCI64_BYTES: 0x80_0000_0000,
} as const;

/** Chipset registers between the PCI window's end and the MSI window. */
const CHIPSET = 0xfec0_0000;
const MIB = 0x10_0000;
const SPLIT = 0xb000_0000;
const LOW = 0x8000_0000;

/** Where 64-bit BARs lie, above all RAM: first address and end. */
export function q35Pci64(ram: readonly RamPiece[]): { readonly base: number; readonly end: number } {
  const ends = ram.map((r) => r.base + r.bytes);
  return { base: Math.max(Q35.PCI64, ...ends), end: Q35.PCI64 + Q35.PCI64_BYTES };
}

/**
 * RAM of `q35`: up to 2.75 GiB below the PCI hole, above that 2 GiB below it and the rest from 4 GiB on. Below 1 MiB the
 * display adapter's window and the PAM area are cut out of it.
 * @param bytes at least 1 MiB for a PC with that area; less is one piece. @param vga whether there is a display adapter.
 */
export function q35Ram(bytes: number, vga = true): readonly RamPiece[] {
  const low = bytes < SPLIT ? bytes : LOW;
  const rest = bytes > low ? [{ base: Q35.ABOVE, bytes: bytes - low }] : [];
  if (low <= MIB) return [{ base: 0, bytes: low }, ...rest];
  return [{ base: 0, bytes: vga ? Q35.VGA : PAM_AREA }, { base: MIB, bytes: low - MIB }, ...rest];
}

/** 0xfee00000: a processor's write there is a message like any other. */
class MessageWindow implements MmioDevice {
  readonly name = 'msi';
  readonly bytes = Q35.MSI_BYTES;
  readonly #irq: InterruptPort | null;

  constructor(irq: InterruptPort | null) {
    this.#irq = irq;
  }

  /** No local APIC is modelled: its registers read as ones. */
  read(): number {
    return 0xffff_ffff;
  }

  read64(_offset: number, out: Int32Array): void {
    out.fill(-1);
  }

  write(offset: number, size: number, lo: number): void {
    if (size === 4) this.#irq?.message(Q35.MSI + offset, lo >>> 0);
  }
}

/** IOAPIC pin of PIRQE, to which INTA of device 0 is routed. */
const PIRQE = 20;
const PCIEXBAR = 0x60;
const HEADER_BYTES = 0x40;
/** Bytes of the ECAM by PCIEXBAR bits 2:1. */
const ECAM_BUSES = [256, 128, 64] as const;

/**
 * QEMU's `q35`: configuration by ports, ECAM where PCIEXBAR puts it, the chipset's functions at their places, reads of 0
 * where nothing is decoded.
 */
export function createQ35(deps: BoardDeps): Board {
  const ioapic = new Ioapic(deps.irq);
  const irq: InterruptPort = {
    pulse: (line) => deps.irq?.pulse(line),
    // PIRQE … PIRQH.
    level: (line, asserted) => ioapic.level(PIRQE + line, asserted),
    message: (address, data) => deps.irq?.message(address, data) ?? true,
  };
  const board = new Board('q35', { ...deps, irq }, true);
  board.ioapic = ioapic;
  const ram = deps.guest.ram();
  const ends = ram.map((r) => r.base + r.bytes);
  const low = Math.max(0, ...ends.filter((end) => end <= Q35.ABOVE));
  board.map.attach(Q35.IOAPIC, ioapic, 4);
  // The display adapter's planes and the HPET answer, with nothing behind them.
  if (deps.vga !== false && low > MIB) board.map.attach(Q35.VGA, new Quiet(Q35.VGA_BYTES, 'vga'), 4);
  board.map.attach(Q35.HPET, new Quiet(Q35.HPET_BYTES, 'hpet'), 4);
  const { complex, map } = board;
  let removeEcam: (() => void) | null = null;
  let removePci: (() => void)[] = [];

  const pci = (from: number, to: number) => new PciWindowSpace(complex, { base: from, bytes: to - from, unclaimed: 0 });
  // The PCI hole is everything from the end of low RAM to the chipset, with the ECAM cut out when it is on.
  const layPci = (ecam: number, bytes: number) => {
    for (const remove of removePci) remove();
    removePci = [];
    const lay = (from: number, to: number) => {
      if (to > from) removePci.push(map.attach(from, pci(from, to), 4));
    };
    if (ecam >= low && ecam + bytes <= CHIPSET && bytes > 0) {
      lay(low, ecam);
      lay(ecam + bytes, CHIPSET);
    } else lay(low, CHIPSET);
  };
  layPci(0, 0);
  map.attach(Q35.MSI, new MessageWindow(deps.irq), 4);
  const pci64 = q35Pci64(ram);
  map.attach(pci64.base, pci(pci64.base, pci64.end), 4);

  const host = new FixedFunction('mch', { vendor: 0x8086, device: 0x29c0, classCode: 0x060000 });
  // QEMU lets every bit behind a function's header be written unless its model says otherwise.
  for (let at = HEADER_BYTES; at < host.config.size; at += 4) host.config.writable(at, 4, -1);
  const layEcam = () => {
    const now = host.config.get(PCIEXBAR, 4);
    removeEcam?.();
    removeEcam = null;
    layPci(0, 0);
    const buses = ECAM_BUSES[(now >>> 1) & 3];
    if ((now & 1) === 0 || buses === undefined) return;
    const base = ((now & 0xf000_0000) | 0) >>> 0;
    if (base < low || base + buses * 0x10_0000 > CHIPSET) return;
    layPci(base, buses * 0x10_0000);
    removeEcam = map.attach(base, new Ecam(complex, buses), 4);
  };
  host.config.watch(PCIEXBAR, 4, layEcam);
  if (low > MIB) {
    board.lowMemory = new LowMemory(host.config);
    map.attach(PAM_AREA, board.lowMemory);
  }
  board.chipset = layEcam;
  board.plug(host, 0);
  if (deps.vga !== false) board.plug(vga());
  if (deps.nic === true) board.plug(new FixedFunction('nic', { vendor: 0x8086, device: 0x10d3, classCode: 0x020000 }));
  const ich = (device: number, classCode: number) => ({ vendor: 0x8086, device, classCode, revision: 2 });
  board.plug(new FixedFunction('lpc', { ...ich(0x2918, 0x060100), multifunction: true }), 0xf8);
  board.plug(
    new FixedFunction('ahci', ich(0x2922, 0x010601), [
      { index: 4, bytes: 32, kind: 'io' },
      { index: 5, bytes: 4096, kind: 'mem32' },
    ]),
    0xfa,
  );
  board.plug(new FixedFunction('smbus', ich(0x2930, 0x0c0500), [{ index: 4, bytes: 64, kind: 'io' }]), 0xfb);
  return board;
}

function vga(): FixedFunction {
  return new FixedFunction('vga', { vendor: 0x1234, device: 0x1111, classCode: 0x030000, revision: 2 }, [
    { index: 0, bytes: 0x100_0000, kind: 'mem32', prefetchable: true },
    { index: 2, bytes: 4096, kind: 'mem32' },
  ]);
}
