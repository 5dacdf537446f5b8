import type { VtdProperties } from '../../../devices/vtd/properties.ts';
import { DMAR_SCOPE, type DmarStructure, dmar } from '../../machine/firmware/dmar.ts';
import { acpiLoaderFiles } from '../../machine/firmware/loader.ts';
import { mcfg } from '../../machine/firmware/mcfg.ts';
import { dsdt, fadt, madt } from '../../machine/firmware/pc.ts';
import type { Emulator } from '../../machine/machine-plan.ts';
import type { MachineState } from '../../machine/plugged-machine.ts';
import { PluggedMachine } from '../../machine/plugged-machine.ts';
import { VtdUnit } from '../../machine/vtd-unit.ts';
import type { MmioDevice } from '../../ports/mmio.ts';
import type { Tell } from '../../ports/tell.ts';
import type { TraceRecorder } from '../../trace/recorder.ts';
import { V86Interrupts } from './apic.ts';
import { neutraliseClflush } from './clflush.ts';
import { type V86Cpu, v86Cpu } from './internals.ts';
import { V86Mmio } from './mmio.ts';
import { V86PciBridge } from './pci.ts';
import { V86Ram } from './ram.ts';

/** Where the parts sit in v86's memory, and what its interrupt router makes of INTA … INTD. */
export const V86_LAYOUT = {
  VTD: 0xfed9_0000,
  ECAM: 0xb000_0000,
  BUSES: 16,
  MSI: 0xfee0_0000,
  MSI_BYTES: 0x10_0000,
  /** Global interrupt by line (device + pin - 1) mod 4. */
  INTX: [11, 10, 10, 11],
  /** Free slots among v86's own functions: an integrated endpoint's, a root port's. */
  ENDPOINT: 0x10 << 3,
  ROOT_PORT: 0x1c << 3,
} as const;

/** v86's ACPI block is hard-wired here; SeaBIOS programs it elsewhere when it gets tables through fw_cfg. */
const PM = { HARDWIRED: 0xb000, PROGRAMMED: 0x600, PORTS: 0x40 } as const;

/** The vVT-d and the functions v86's guest gets. */
export interface V86Options {
  /** Version of the installed v86 package, checked. */
  readonly version: string;
  /** Properties of the vVT-d. */
  readonly properties: VtdProperties;
  /** The function sits behind a root port on bus 1 (default: integrated, 00:10.0). */
  readonly behindRootPort?: boolean;
  /** The guest is not told of the unit (no DMAR table): its DMA passes through. */
  readonly hidden?: boolean;
  /** Hears everything that happens. */
  readonly tell?: Tell | null;
  /** Hears of defects in handlers. */
  readonly report?: (error: unknown) => void;
  /** Debugging: the physical unit swallows invalidations. */
  readonly ignoreInvalidations?: boolean;
  /** Makes a recording. */
  readonly record?: TraceRecorder | null;
}

/** The machine in v86. */
export interface V86Machine {
  /** The machine. */
  readonly machine: PluggedMachine;
  /** Its vVT-d. */
  readonly unit: VtdUnit;
  /** @internal v86's CPU. */
  readonly cpu: V86Cpu;
  /** @internal v86's PCI bus with our functions on it. */
  readonly pci: V86PciBridge;
  /** CLFLUSH instructions replaced in the guest kernel so far. */
  readonly clflush: () => number;
  /** Interrupts that v86 lost and was asked for again so far. */
  readonly lostInterrupts: () => number;
  /** Runs DMA (or anything else) that no access of the guest caused. Call it between the emulator's turns only. */
  outside<T>(action: () => T): T;
  /** After `restore_state`: our half of the same moment's state. */
  restored(state: MachineState): void;
}

/** ACPI tables for the guest: host bridge, ECAM, VT-d with the function in its scope. */
function tables(options: V86Options) {
  const { VTD, ECAM, BUSES, ENDPOINT, ROOT_PORT } = V86_LAYOUT;
  const path = (devfn: number) => [{ device: devfn >>> 3, fn: devfn & 7 }];
  const scope = options.behindRootPort
    ? { type: DMAR_SCOPE.BRIDGE, bus: 0, path: path(ROOT_PORT) }
    : { type: DMAR_SCOPE.ENDPOINT, bus: 0, path: path(ENDPOINT) };
  // v86's own functions reach memory past every IOMMU: only ours are in the unit's scope.
  const structures: DmarStructure[] = [{ kind: 'drhd', base: VTD, scopes: [scope] }];
  if (options.behindRootPort) structures.push({ kind: 'atsr', allPorts: false, scopes: [scope] });
  const remapping = options.properties.intremap;
  const pm = PM.HARDWIRED;
  return acpiLoaderFiles(
    fadt({ sci: 9, pm1aEvent: pm, pm1aControl: pm + 4, pmTimer: pm + 8, gpe0: 0xafe0 }),
    dsdt({
      mmio: { base: 0xc000_0000, last: 0xfebf_ffff },
      lastBus: BUSES - 1,
      intx: [ENDPOINT, ROOT_PORT].map((d) => ({ device: d >>> 3, gsi: [11, 10, 10, 11] as const })),
      reserved: [
        { base: ECAM, bytes: BUSES << 20 },
        { base: VTD, bytes: 0x1000 },
      ],
    }),
    [
      madt(),
      mcfg([{ base: ECAM, firstBus: 0, lastBus: BUSES - 1 }]),
      ...(options.hidden
        ? []
        : [dmar({ hostAddressWidth: options.properties.awBits, interruptRemapping: remapping, structures })]),
    ],
  );
}

/** The driver's first look at the unit comes before its first CLFLUSH. */
function beforeReads(window: MmioDevice, first: () => void): MmioDevice {
  return {
    name: window.name,
    bytes: window.bytes,
    read(offset, size) {
      first();
      return window.read(offset, size);
    },
    read64: (offset, out) => window.read64(offset, out),
    write: (offset, size, lo, hi) => window.write(offset, size, lo, hi),
  };
}

/**
 * Plugs a vVT-d, ECAM and our PCIe functions into an unmodified v86. Call it between its `emulator-loaded` event and
 * `run()`; the emulator needs `acpi: true` (without it v86 has no APIC). Functions are plugged with `machine.plug`.
 * @throws ViommuError `E_VERSION` when v86 is not the version this is made for.
 */
export function plugIntoV86(emulator: unknown, options: V86Options): V86Machine {
  const cpu = v86Cpu(emulator, options.version);
  const defer =
    typeof setImmediate === 'function'
      ? (f: () => void) => void setImmediate(f)
      : (f: () => void) => void setTimeout(f, 0);
  const report =
    options.report ??
    ((error: unknown) =>
      defer(() => {
        throw error;
      }));
  const ram = new V86Ram(cpu);
  const mmio = new V86Mmio(
    cpu,
    () => ram.check(),
    () => ram.flush(),
    report,
  );
  const interrupts = new V86Interrupts(cpu, defer);
  const timers = cpu.run_hardware_timers.bind(cpu);
  cpu.run_hardware_timers = (acpi, now) => {
    const next = timers(acpi, now);
    try {
      return Math.min(next, interrupts.unstick(now));
    } catch (e) {
      report(e);
      return next;
    }
  };
  let flushes = -1;
  const silenceClflush = () => {
    if (flushes < 0) flushes = neutraliseClflush(cpu);
  };
  const port: Emulator = {
    ram: [{ base: 0, bytes: ram.bytes, backing: ram }],
    claim: (base, window) =>
      void mmio.claim(base, base === V86_LAYOUT.VTD ? beforeReads(window, silenceClflush) : window),
    interrupts: {
      line: (gsi, asserted) => interrupts.level(gsi, asserted),
      message: (address, data) => void interrupts.message(address, data),
    },
    defer,
    report,
  };
  let unit: VtdUnit | null = null;
  const machine = new PluggedMachine(
    port,
    {
      iommu: V86_LAYOUT.VTD,
      intx: V86_LAYOUT.INTX,
      doorbell: { base: V86_LAYOUT.MSI, bytes: V86_LAYOUT.MSI_BYTES },
      tell: options.tell ?? null,
      record: options.record ?? null,
    },
    (vm, irq, tell) => {
      const ignoreInvalidations = options.ignoreInvalidations ?? false;
      unit = new VtdUnit(vm, { name: 'vtd', properties: options.properties, irq, tell, ignoreInvalidations });
      return unit;
    },
  );
  ram.onMoved = () => {
    machine.vm.memory.guest.moved();
    machine.vm.hostMemory.space.moved();
  };
  const pci = new V86PciBridge(cpu.devices.pci, machine.complex, mmio, report);
  port.claim(V86_LAYOUT.ECAM, machine.guard(pci.ecam(V86_LAYOUT.BUSES)));
  for (let i = 0; i < PM.PORTS; i++) cpu.io.ports[PM.PROGRAMMED + i] = cpu.io.ports[PM.HARDWIRED + i];
  cpu.option_roms.push(...tables(options));
  return {
    machine,
    unit: unit!,
    cpu,
    pci,
    clflush: () => Math.max(0, flushes),
    lostInterrupts: () => interrupts.lost,
    outside(action) {
      ram.check();
      try {
        return action();
      } finally {
        ram.flush();
      }
    },
    restored(state) {
      ram.check();
      machine.load(state);
      pci.claimBars();
      ram.flush();
    },
  };
}
