import { TWO32 } from '../src/core/bits.ts';
import { ConfigSpace } from '../src/lib/pci/config-space.ts';
import { bridgeHeader } from '../src/lib/pci/header.ts';
import { Interrupts } from '../src/lib/pci/interrupts.ts';
import { addAcs, addAer, addPcie, announcesError, receiveError, recordError } from '../src/lib/pci/standard.ts';
import { checkFormOf } from '../src/lib/saved/state-form.ts';
import type { PciFunction, PciWindow, Upstream } from '../src/ports/pci.ts';
import { ACS_CAP, AER_CAP, PCIE, PORT } from '../src/spec/pcie/capabilities.ts';
import { BRIDGE_CONTROL, COMMAND, HEADER } from '../src/spec/pcie/header.ts';

/** What kind of port or bridge: of a root complex, of a switch, or to conventional PCI. */
export type BridgeKind = 'root' | 'upstream' | 'downstream' | 'pcie-pci' | 'pci-pci';

/** How a bridge is made. */
export interface BridgeOptions {
  /** Its kind. */
  readonly kind: BridgeKind;
  /** For messages and listings (default: its kind). */
  readonly name?: string;
  /** Vendor ID (default: one of QEMU's). */
  readonly vendor?: number;
  /** Device ID (default: one of QEMU's). */
  readonly device?: number;
  /** Advertise ACS (root and downstream ports do by default). */
  readonly acs?: boolean;
  /** A slot that can be filled and emptied while the guest runs (root and downstream ports). */
  readonly hotplug?: boolean;
}

const KIND = {
  root: { port: PORT.ROOT, device: 0x000c },
  upstream: { port: PORT.UPSTREAM, device: 0x000d },
  downstream: { port: PORT.DOWNSTREAM, device: 0x000e },
  'pcie-pci': { port: PORT.TO_PCI, device: 0x000e },
  'pci-pci': { port: -1, device: 0x0001 },
} as const;

/** A function with a bus behind it: root port, switch port or bridge to conventional PCI. */
export class Bridge implements PciFunction {
  readonly name: string;
  /** Its kind. */
  readonly kind: BridgeKind;
  /** Its configuration space. */
  readonly config: ConfigSpace;
  readonly windows: readonly PciWindow[] = [];
  readonly #acs: number;
  readonly #pcie: number;
  readonly #aer: number;
  readonly #hotplug: boolean;
  /** One cause, the pin: slot events and, in a root port, errors. */
  readonly #irq: Interrupts;
  /** An error was detected that is to be announced upstream (ERR_FATAL or ERR_NONFATAL). */
  onError: ((fatal: boolean) => void) | null = null;
  /** The machine resets what is behind the bridge when software asks for it (Secondary Bus Reset). */
  onBusReset: (() => void) | null = null;

  constructor(options: BridgeOptions) {
    this.kind = options.kind;
    this.name = options.name ?? options.kind;
    const kind = KIND[options.kind];
    this.config = new ConfigSpace(options.kind === 'pci-pci' ? 256 : 4096);
    bridgeHeader(this.config, {
      vendor: options.vendor ?? 0x1b36,
      device: options.device ?? kind.device,
      classCode: 0x060400,
      pin: options.kind === 'root' || options.kind === 'downstream' ? 1 : 0,
    });
    const downstream = this.kind === 'root' || this.kind === 'downstream';
    this.#hotplug = downstream && options.hotplug === true;
    this.#pcie =
      kind.port < 0 ? 0 : addPcie(this.config, { port: kind.port, slot: downstream, hotplug: this.#hotplug });
    this.#aer = this.#pcie === 0 ? 0 : addAer(this.config, this.kind === 'root');
    this.#acs =
      downstream && options.acs !== false
        ? addAcs(this.config, ACS_CAP.SV | ACS_CAP.TB | ACS_CAP.RR | ACS_CAP.CR | ACS_CAP.UF | ACS_CAP.DT)
        : 0;
    if (this.#pcie !== 0 && this.pointToPoint) {
      this.config.changing(this.#pcie + PCIE.SLTSTA, 2, 0xffff);
      this.config.changing(this.#pcie + PCIE.LNKSTA, 2, 0x11 | PCIE.LNKSTA_ACTIVE);
    }
    this.#irq = new Interrupts(this.config, {});
    const settle = () => this.#settle();
    if (this.pointToPoint) for (const at of [PCIE.SLTCTL, PCIE.SLTSTA]) this.config.watch(this.#pcie + at, 2, settle);
    if (this.kind === 'root')
      for (const at of [AER_CAP.ROOT_COMMAND, AER_CAP.ROOT_STATUS]) this.config.watch(this.#aer + at, 4, settle);
    this.config.watch(HEADER.BRIDGE_CONTROL, 2, (before, now) => {
      if ((now & ~before & BRIDGE_CONTROL.BUS_RESET) !== 0) this.onBusReset?.();
    });
  }

  /** Number software gave the bus behind it; 0: none yet. */
  get secondary(): number {
    return this.config.get(HEADER.SECONDARY, 1);
  }

  /** Highest bus number behind it. */
  get subordinate(): number {
    return this.config.get(HEADER.SUBORDINATE, 1);
  }

  /** ACS bits in force; 0 without the capability. */
  get acs(): number {
    return this.#acs === 0 ? 0 : this.config.get(this.#acs + ACS_CAP.CONTROL, 2);
  }

  /** Whether the port could isolate what is below it (the capability, not its setting). */
  get canIsolate(): boolean {
    return this.#acs !== 0;
  }

  /** Whether the port forwards configuration requests to device numbers above 0 as functions (ARI). */
  get ari(): boolean {
    return this.#pcie !== 0 && (this.config.get(this.#pcie + PCIE.DEVCTL2, 2) & PCIE.DEVCTL2_ARI) !== 0;
  }

  /** Only device 0 exists on the link below a root or downstream port. */
  get pointToPoint(): boolean {
    return this.kind === 'root' || this.kind === 'downstream';
  }

  /** Whether requests from below go on upstream. */
  get master(): boolean {
    return (this.config.get(HEADER.COMMAND, 2) & COMMAND.MASTER) !== 0;
  }

  /** Whether the bridge passes a memory address on to its secondary bus. */
  decodes(address: number): boolean {
    const c = this.config;
    if ((c.get(HEADER.COMMAND, 2) & COMMAND.MEM) === 0) return false;
    const base = (c.get(HEADER.MEMORY_BASE, 2) & 0xfff0) * 0x1_0000;
    const limit = (c.get(HEADER.MEMORY_LIMIT, 2) & 0xfff0) * 0x1_0000 + 0xf_ffff;
    if (address >= base && address <= limit) return true;
    const low = c.get(HEADER.PREFETCH_BASE, 2);
    const wide = (low & 0xf) === 1;
    const pbase = (low & 0xfff0) * 0x1_0000 + (wide ? c.get(HEADER.PREFETCH_BASE_HIGH, 4) * TWO32 : 0);
    const plimit =
      (c.get(HEADER.PREFETCH_LIMIT, 2) & 0xfff0) * 0x1_0000 +
      0xf_ffff +
      (wide ? c.get(HEADER.PREFETCH_LIMIT_HIGH, 4) * TWO32 : 0);
    return address >= pbase && address <= plimit;
  }

  /** Whether its I/O window holds the port. */
  decodesIo(port: number): boolean {
    const c = this.config;
    if ((c.get(HEADER.COMMAND, 2) & COMMAND.IO) === 0) return false;
    const base = (c.get(HEADER.IO_BASE, 1) & 0xf0) * 0x100 + c.get(HEADER.IO_BASE_HIGH, 2) * 0x1_0000;
    const limit = (c.get(HEADER.IO_LIMIT, 1) & 0xf0) * 0x100 + 0xfff + c.get(HEADER.IO_LIMIT_HIGH, 2) * 0x1_0000;
    return port >= base && port <= limit;
  }

  /** A request from below broke an access control rule (AER: ACS Violation). */
  violation(): void {
    this.#detect(AER_CAP.ACS_VIOLATION);
  }

  /** Whether error messages from the secondary side go on upstream (PCIe §6.2.6). */
  get forwardsErrors(): boolean {
    return (this.config.get(HEADER.BRIDGE_CONTROL, 2) & BRIDGE_CONTROL.SERR) !== 0;
  }

  /** An error message reached this root port. @param rid who sent it. */
  errorMessage(rid: number, fatal: boolean): void {
    receiveError(this.config, this.#aer, rid, fatal);
    this.#settle();
  }

  #detect(status: number): void {
    if (this.#aer === 0) return;
    const masked = recordError(this.config, this.#aer, status);
    const fatal = (this.config.get(this.#aer + AER_CAP.UNCORRECTABLE_SEVERITY, 4) & status) !== 0;
    if (announcesError(this.config, this.#pcie, fatal) && !masked) this.onError?.(fatal);
  }

  /** Slot changes the guest wants to hear of (PCIe §6.7.3.4), errors it wants to hear of (§6.2.4.1.2). */
  #settle(): void {
    const c = this.config;
    let wanted = false;
    if (this.#hotplug) {
      const control = c.get(this.#pcie + PCIE.SLTCTL, 2);
      const link = (control & PCIE.SLTCTL_LINK_CHANGED) !== 0 ? PCIE.SLTSTA_LINK_CHANGED : 0;
      const enabled = (control & PCIE.SLTSTA_PRESENCE_CHANGED) | link;
      wanted = (control & PCIE.SLTCTL_HOTPLUG_IRQ) !== 0 && (c.get(this.#pcie + PCIE.SLTSTA, 2) & enabled) !== 0;
    }
    if (this.kind === 'root') {
      const command = c.get(this.#aer + AER_CAP.ROOT_COMMAND, 4);
      const status = c.get(this.#aer + AER_CAP.ROOT_STATUS, 4);
      const nonfatal = (command & AER_CAP.ROOT_NONFATAL_ON) !== 0 ? AER_CAP.ROOT_NONFATAL : 0;
      const fatal = (command & AER_CAP.ROOT_FATAL_ON) !== 0 ? AER_CAP.ROOT_FATAL : 0;
      if ((status & (nonfatal | fatal)) !== 0) wanted = true;
    }
    if (wanted) this.#irq.raise(0);
    else this.#irq.clear(0);
  }

  /** A card was put into the slot or taken out: the presence bits change, and a change is announced. */
  presence(present: boolean, announce: boolean): void {
    if (this.#pcie === 0 || !this.pointToPoint) return;
    const at = this.#pcie + PCIE.SLTSTA;
    const status = this.config.get(at, 2) & ~PCIE.SLTSTA_PRESENT;
    const changed = announce ? PCIE.SLTSTA_PRESENCE_CHANGED | PCIE.SLTSTA_LINK_CHANGED : 0;
    this.config.set(at, 2, status | (present ? PCIE.SLTSTA_PRESENT : 0) | changed);
    this.config.set(this.#pcie + PCIE.LNKSTA, 2, 0x11 | (present ? PCIE.LNKSTA_ACTIVE : 0));
    // A slot that was not made for it loses its link: that is an error (PCIe §3.2.1).
    if (announce && !present && !this.#hotplug) this.#detect(AER_CAP.SURPRISE_DOWN);
    this.#settle();
  }

  configRead(offset: number, size: number): number {
    return this.config.read(offset, size);
  }

  configWrite(offset: number, size: number, value: number): void {
    this.config.write(offset, size, value);
  }

  barRead(): number {
    return 0xffff_ffff;
  }

  barWrite(): void {}

  connect(upstream: Upstream | null): void {
    this.#irq.upstream = upstream;
    this.#settle();
  }

  reset(): void {
    const at = this.#pcie === 0 ? 0 : this.#pcie + PCIE.SLTSTA;
    const present = at !== 0 && (this.config.get(at, 2) & PCIE.SLTSTA_PRESENT) !== 0;
    this.config.reset();
    this.#settle();
    if (present) this.presence(true, false);
  }

  save(): number[] {
    return this.config.save();
  }

  checkState(state: unknown, path: string): void {
    checkFormOf<readonly number[]>(state, this.config.form(), path);
  }

  load(bytes: unknown): void {
    this.config.load(bytes as readonly number[]);
    this.#settle();
  }
}
