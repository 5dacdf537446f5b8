import type { PciBus, Root } from '../../bus/topology.ts';
import { ViommuError } from '../core/errors.ts';
import type { FailureOptions } from '../lib/inject/failure-options.ts';
import type { MachineLimits, MachineUsage } from '../lib/limits/machine-limits.ts';
import { profileNamed } from '../lib/profile/profile.ts';
import { parseInteger, type QemuArgs, type QemuOption } from '../lib/qemu-args/qemu-args.ts';
import { loadOrReturn } from '../lib/saved/load-or-return.ts';
import { checkFormOf, type FormOf } from '../lib/saved/state-form.ts';
import type { InterruptPort } from '../ports/irq.ts';
import type { Tell } from '../ports/tell.ts';
import type { TraceRecorder } from '../trace/recorder.ts';
import { recordedTell } from './behind-unit.ts';
import type { Board, BoardState } from './board.ts';
import { plugBridge, plugExpander } from './bridges.ts';
import type { PhysicalMap } from './physical-map.ts';
import { createQ35, q35Ram } from './q35.ts';
import { attachVtd } from './q35-vtd.ts';
import type { IommuUnit } from './unit.ts';
import { createVirt, virtRam } from './virt.ts';
import { attachSmmus } from './virt-smmu.ts';
import { Vm } from './vm.ts';

/** What a command line leaves open. */
export interface QemuDefaults {
  /** A network card is there unless the line says otherwise. */
  readonly nic: boolean;
  /** A display adapter is there unless the line says otherwise. */
  readonly vga: boolean;
  /** Hears everything that happens. */
  readonly tell?: Tell | null;
  /** How much of its host the guest can use, where that differs from the defaults. */
  readonly limits?: Partial<MachineLimits>;
  /** Lets internal steps of the host and its hardware fail (`Vm.failures`). */
  readonly failures?: FailureOptions;
  /** `qemu-11.1` (default) or `arch`. */
  readonly profile?: string;
  /** Hears what the host refuses when a guest renumbers buses; the function is then blocked. */
  readonly report?: (error: unknown) => void;
  /** Which functions wait when an access faults (Arm: stalls are for platform devices; PCI functions do not wait by default). */
  readonly canStall?: (name: string) => boolean;
  /** Hears the DMA behind the first IOMMU and what the machine tells; register accesses and stores are its driver's to tell. */
  readonly record?: TraceRecorder;
}

/** Where the machine's interrupts go: whoever drives it may put a listener here. */
export class InterruptTap implements InterruptPort {
  /** Where interrupts go; null: nowhere. */
  to: InterruptPort | null = null;

  pulse(line: number): void {
    this.to?.pulse(line);
  }

  level(line: number, asserted: boolean): void {
    this.to?.level(line, asserted);
  }

  message(address: number, data: number): boolean {
    return this.to?.message(address, data) ?? true;
  }
}

/** Saved state: devices and IOMMUs. RAM is saved by whoever owns its storage, and must be back before `load`. */
export interface QemuMachineState {
  /** @internal */
  readonly board: BoardState | null;
  readonly iommus: readonly unknown[];
}

/** What is in them is checked by the board and by the units. */
const FORM: FormOf<Record<keyof QemuMachineState, unknown>> = { members: { board: 'anything', iommus: 'anything' } };

/** What a machine of a command line is made of; `-machine none` has neither VM nor board. */
export interface QemuMachineParts {
  readonly vm: Vm | null;
  readonly board: Board | null;
  readonly irq: InterruptTap;
  readonly iommus: readonly IommuUnit[];
}

/** A machine as a QEMU command line describes it. */
export class QemuMachine {
  /** @internal null: `-machine none`. */
  readonly board: Board | null;
  /** Memory, host and clock; null for a machine without RAM (`-M none`). */
  readonly vm: Vm | null;
  /** Where its interrupts end. */
  readonly irq: InterruptTap;
  readonly #iommus: readonly IommuUnit[];

  /** @internal */
  constructor(parts: QemuMachineParts) {
    this.vm = parts.vm;
    this.board = parts.board;
    this.irq = parts.irq;
    this.#iommus = parts.iommus;
  }

  /** @internal The IOMMUs of the command line. */
  get iommus(): readonly IommuUnit[] {
    return this.#iommus;
  }

  /** Guest-physical space as a CPU sees it; null for a machine without RAM. */
  get map(): PhysicalMap | null {
    return this.board?.map ?? null;
  }

  /** An I/O port read of 1, 2 or 4 bytes: unsigned. */
  portRead(port: number, size: number): number {
    return this.board?.portRead(port, size) ?? 2 ** (8 * size) - 1;
  }

  /** An I/O port write of 1, 2 or 4 bytes. */
  portWrite(port: number, size: number, value: number): void {
    this.board?.portWrite(port, size, value);
  }

  /** Virtual time in nanoseconds. */
  now(): number {
    return this.vm?.clock.now() ?? 0;
  }

  /** When the next timer is due; Infinity: none is. */
  next(): number {
    return this.vm?.clock.next ?? Number.POSITIVE_INFINITY;
  }

  /** Lets virtual time pass. */
  advance(nanoseconds: number): void {
    this.vm?.clock.advance(nanoseconds);
  }

  /** What the guest uses of each limit now; null for a machine without RAM. */
  usage(): MachineUsage | null {
    return this.vm?.usage() ?? null;
  }

  /** Everything but guest memory, as plain data. */
  save(): QemuMachineState {
    this.board?.complex.settle();
    return { board: this.board?.save() ?? null, iommus: this.#iommus.map((i) => i.save()) };
  }

  /**
   * Goes on where `save` was.
   * @throws ViommuError `EINVAL` when the state is another machine's; `E_VERSION` when another version saved it; `EIO`
   * when the host refuses what it needs. The machine is as before then, with cold caches.
   */
  load(state: QemuMachineState): void {
    checkFormOf<Record<keyof QemuMachineState, unknown>>(state, FORM, 'machine');
    checkFormOf<readonly unknown[]>(state.iommus, { each: 'anything' }, 'machine.iommus');
    if (state.iommus.length !== this.#iommus.length || (state.board === null) !== (this.board === null)) {
      throw new ViommuError('EINVAL', 'caller', 'the state is of another machine');
    }
    for (const [i, iommu] of this.#iommus.entries()) iommu.checkState?.(state.iommus[i]);
    this.board?.checkState(state.board);
    loadOrReturn(
      () => this.save(),
      (s, anyway) => this.#load(s, anyway),
      state,
    );
  }

  #load(state: QemuMachineState, anyway: boolean): void {
    this.board?.load(state.board!, () => {
      for (const [i, iommu] of this.#iommus.entries()) {
        iommu.reset();
        iommu.load(state.iommus[i], anyway);
      }
    });
  }

  /** System reset: devices first, so that nothing of them meets an IOMMU in the middle of its own reset. */
  reset(): void {
    this.board?.reset();
    for (const iommu of this.#iommus) iommu.reset();
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

/** The PCI buses of a machine by QEMU's names. */
class Buses {
  readonly #buses = new Map<string, PciBus>();
  readonly roots = new Map<string, Root>();

  constructor(root: Root) {
    this.addRoot('pcie.0', root);
  }

  add(name: string, bus: PciBus): void {
    this.#buses.set(name, bus);
  }

  addRoot(name: string, root: Root): void {
    this.roots.set(name, root);
    this.add(name, root.bus);
  }

  of(device: QemuOption): PciBus {
    const name = device.props.get('bus') ?? 'pcie.0';
    const bus = this.#buses.get(name);
    if (bus === undefined) throw new ViommuError('E_PROFILE', 'caller', `${device.kind}: bus '${name}' not found`);
    return bus;
  }
}

/** Devices that are IOMMUs: they are put in before everything else, whatever the order of the words. */
const IOMMUS = new Set(['arm-smmuv3', 'intel-iommu']);

/**
 * Stands up the machine.
 * @throws ViommuError `E_PROFILE` for a machine type, device or property that is not known; `EINVAL` for a profile or a limit.
 */
export function createQemuMachine(args: QemuArgs, defaults: QemuDefaults): QemuMachine {
  const irq = new InterruptTap();
  const type = args.machine.kind.replace(/^(?:pc-)?(virt|q35)-\d.*$/, '$1') || 'none';
  if (type === 'none') return new QemuMachine({ vm: null, board: null, irq, iommus: [] });
  if (type !== 'virt' && type !== 'q35') {
    throw new ViommuError('E_PROFILE', 'caller', `unsupported machine type '${type}': virt, q35 or none`);
  }
  const profile = profileNamed(defaults.profile ?? 'qemu-11.1');
  const { vga, nic } = defaults;
  const ram = type === 'virt' ? virtRam(args.memory) : q35Ram(args.memory, vga);
  const { failures } = defaults;
  const chance = failures === undefined ? {} : { failures };
  const tell = recordedTell(defaults.tell ?? null, defaults.record ?? null);
  const vm = new Vm({ ram, tell, limits: defaults.limits ?? {}, ...chance });
  // The VM stands, the machine does not yet.
  if (vm.failures !== null) vm.failures.on = failures?.construction ?? false;
  const { accesses, clock } = vm;
  const deps = { guest: vm.memory.guest, memory: vm.hostMemory.space, irq, clock, accesses, vga, nic };
  const board = type === 'virt' ? createVirt(deps) : createQ35(deps);
  const buses = new Buses(board.root);
  for (const d of args.devices) {
    if (d.kind !== 'pxb-pcie') continue;
    const number = parseInteger('bus_nr', d.props.get('bus_nr') ?? '0', 1, 255);
    buses.addRoot(d.props.get('id') ?? `pxb.${number}`, plugExpander(board, number, devfnOf(d)));
  }
  const attach = type === 'virt' ? attachSmmus : attachVtd;
  const iommus = attach({
    vm,
    board,
    roots: buses.roots,
    irq,
    args,
    profile,
    tell,
    ...(defaults.record === undefined ? {} : { record: defaults.record }),
    report: defaults.report ?? (() => {}),
    ...(defaults.canStall === undefined ? {} : { canStall: defaults.canStall }),
  });
  for (const device of args.devices) plugDevice(board, buses, device);
  if (vm.failures !== null) vm.failures.on = true;
  return new QemuMachine({ vm, board, irq, iommus });
}

function plugDevice(board: Board, buses: Buses, device: QemuOption): void {
  if (IOMMUS.has(device.kind) || device.kind === 'pxb-pcie') return;
  if (device.kind === 'iommu-testdev') {
    board.plugTestdev(devfnOf(device), buses.of(device));
    return;
  }
  const slot = plugBridge(board, buses.of(device), device.kind, devfnOf(device));
  if (slot === null) {
    throw new ViommuError('E_PROFILE', 'caller', `'${device.kind}' is not a valid device model name`);
  }
  const id = device.props.get('id');
  if (id !== undefined) buses.add(id, slot.behind!);
}
