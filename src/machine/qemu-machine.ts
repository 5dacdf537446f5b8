import { ViommuError } from '../core/errors.ts';
import { VirtualClock } from '../lib/clock/virtual-clock.ts';
import { AddressSpace, ramBacking } from '../lib/memory/address-space.ts';
import { parseInteger, type QemuArgs, type QemuOption } from '../lib/qemu-args/qemu-args.ts';
import type { Board } from './board.ts';
import type { PhysicalMap } from './physical-map.ts';
import { createQ35, q35Ram } from './q35.ts';
import { createVirt, virtRam } from './virt.ts';

export interface QemuDefaults {
  readonly nic: boolean;
  readonly vga: boolean;
}

/** A machine as a QEMU command line describes it. */
export class QemuMachine {
  /** null: `-machine none`. */
  readonly board: Board | null;
  readonly #clock = new VirtualClock();

  constructor(board: Board | null) {
    this.board = board;
  }

  get map(): PhysicalMap | null {
    return this.board?.map ?? null;
  }

  portRead(port: number, size: number): number {
    return this.board?.portRead(port, size) ?? 2 ** (8 * size) - 1;
  }

  portWrite(port: number, size: number, value: number): void {
    this.board?.portWrite(port, size, value);
  }

  now(): number {
    return this.#clock.now();
  }

  next(): number {
    return this.#clock.next;
  }

  advance(nanoseconds: number): void {
    this.#clock.advance(nanoseconds);
  }

  reset(): void {
    this.board?.reset();
  }
}

/** `addr=N[.F]`, as QEMU reads it: hexadecimal. */
function devfnOf(device: QemuOption): number | undefined {
  const addr = device.props.get('addr');
  if (addr === undefined) return undefined;
  const m = /^(?:0x)?([0-9a-f]{1,2})(?:\.([0-7]))?$/i.exec(addr);
  const slot = m === null ? 32 : Number.parseInt(m[1]!, 16);
  if (slot > 31) throw new ViommuError('E_PROFILE', 'caller', `${device.kind}: addr is DEVICE[.FUNCTION]`, { addr });
  return (slot << 3) | parseInteger('addr', m![2] ?? '0', 0, 7);
}

/**
 * Stands up the machine.
 * @throws ViommuError `E_PROFILE` for a machine type, device or property that is not known.
 */
export function createQemuMachine(args: QemuArgs, defaults: QemuDefaults): QemuMachine {
  const type = args.machine.kind.replace(/^(?:pc-)?(virt|q35)-\d.*$/, '$1') || 'none';
  if (type === 'none') return new QemuMachine(null);
  if (type !== 'virt' && type !== 'q35') {
    throw new ViommuError('E_PROFILE', 'caller', `unsupported machine type '${type}': virt, q35 or none`);
  }
  const guest = new AddressSpace();
  for (const r of type === 'virt' ? virtRam(args.memory) : q35Ram(args.memory)) {
    guest.addRam(r.base, r.bytes, ramBacking(r.bytes));
  }
  const deps = { guest, memory: guest, irq: null, clock: null, ...defaults };
  const board = type === 'virt' ? createVirt(deps) : createQ35(deps);
  for (const device of args.devices) {
    switch (device.kind) {
      case 'iommu-testdev':
        board.plugTestdev(devfnOf(device));
        break;
      default:
        throw new ViommuError('E_PROFILE', 'caller', `'${device.kind}' is not a valid device model name`);
    }
  }
  return new QemuMachine(board);
}
