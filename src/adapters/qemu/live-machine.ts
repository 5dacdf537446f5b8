import { closeSync, openSync } from 'node:fs';
import type { Slot } from '../../../bus/topology.ts';
import type { MachinePlan, MakeUnit } from '../../machine/machine-plan.ts';
import { PluggedMachine } from '../../machine/plugged-machine.ts';
import { QemuEmulator } from './emulator.ts';
import { FileRam } from './file-ram.ts';
import { QtestClient } from './qtest-client.ts';
import { TrapServer } from './trap-server.ts';

const PAGE = 4096;

/** A machine of this package beside a running QEMU. */
export interface LiveOptions {
  /** The file QEMU keeps guest RAM in (`memory-backend-file … share=on`), already as large as that RAM. */
  readonly ramFile: string;
  /** Guest-physical: RAM, and the trapped window at its end. */
  readonly layout: { readonly ram: number; readonly window: number };
  /** Path of the socket on which QEMU's trap device connects. */
  readonly trapSocket: string;
  /** Path of the socket on which QEMU's qtest connects. */
  readonly qtestSocket: string;
  /** Where the machine's parts sit. */
  readonly plan: MachinePlan;
  /** Makes its IOMMU. */
  readonly make: MakeUnit;
  /** A wired line rises: which bus write tells QEMU's interrupt controller. */
  readonly raise: (line: number) => { readonly address: number; readonly data: number };
  /** Register offsets in the IOMMU's window that change without a store to their page. */
  readonly iommuPages: readonly number[];
}

/** A machine of ours under a running QEMU. Start it, then start QEMU with the trap plugin and a qtest socket. */
export class LiveMachine {
  /** The machine. */
  readonly machine: PluggedMachine;
  /** QEMU as that machine's emulator. */
  readonly emulator: QemuEmulator;
  /** The accesses QEMU traps. */
  readonly trap: TrapServer;
  /** What went wrong in handlers and interrupt delivery. */
  readonly errors: unknown[] = [];
  readonly #qtest = new QtestClient();
  readonly #fd: number;
  readonly #options: LiveOptions;

  constructor(o: LiveOptions) {
    this.#options = o;
    this.#fd = openSync(o.ramFile, 'r+');
    const write = (address: number, data: number) => {
      this.#qtest.writel(address, data).catch((e: unknown) => this.errors.push(e));
    };
    this.emulator = new QemuEmulator(new FileRam(this.#fd), o.layout, {
      line: (n, asserted) => {
        if (!asserted) return;
        const { address, data } = o.raise(n);
        write(address, data);
      },
      message: write,
    });
    const { emulator } = this;
    this.machine = new PluggedMachine(
      {
        ram: emulator.ram,
        claim: (base, window) => emulator.claim(base, window),
        interrupts: emulator.interrupts,
        defer: (action) => emulator.defer(action),
        report: (e) => this.errors.push(e),
      },
      { ...o.plan, recordReads: false },
      o.make,
    );
    emulator.affected = (base, offset) => this.#affected(base, offset);
    this.trap = new TrapServer((offset, size, lo, hi) => {
      try {
        emulator.store(offset, size, lo, hi);
      } catch (e) {
        this.errors.push(e);
      }
    });
  }

  /** Shows the guest the initial registers and listens for QEMU. */
  async start(): Promise<void> {
    const { plan } = this.#options;
    this.showIommu();
    if (plan.ecam) {
      for (let at = 0; at < plan.ecam.buses << 20; at += PAGE) this.emulator.show(plan.ecam.base, at);
    }
    await this.trap.listen(this.#options.trapSocket);
    await this.#qtest.listen(this.#options.qtestSocket);
  }

  #affected(base: number, offset: number): readonly number[] {
    const { plan, iommuPages } = this.#options;
    const page = offset - (offset % PAGE);
    if (base === plan.iommu) return iommuPages.includes(page) ? iommuPages : [page, ...iommuPages];
    // A BAR that moved, or a function that was switched on, shows itself somewhere else.
    if (base === plan.ecam?.base) this.showBars();
    // Work that a store started may have faulted.
    this.showIommu();
    return [page];
  }

  /** Writes the IOMMU's registers into the pages the guest loads from. */
  showIommu(): void {
    for (const page of this.#options.iommuPages) this.emulator.show(this.#options.plan.iommu, page);
  }

  /** Every page that a function decodes now. */
  showBars(): void {
    const pci = this.#options.plan.pci;
    if (pci === undefined) return;
    for (const slot of this.machine.complex.slots()) this.#showWindows(slot, pci);
  }

  #showWindows(slot: Slot, pci: { readonly base: number; readonly bytes: number }): void {
    for (const w of slot.fn.windows) {
      const base = w.address();
      if (w.io || base < pci.base || base + w.bytes > pci.base + pci.bytes) continue;
      for (let at = 0; at < w.bytes; at += PAGE) this.emulator.show(pci.base, base - pci.base + at);
    }
  }

  /** Runs DMA (or anything else) that no store of the guest caused, and shows what it changed. */
  outside<T>(action: () => T): T {
    this.emulator.sync();
    const result = action();
    this.showIommu();
    this.showBars();
    return result;
  }

  /** Closes both sockets and the file. */
  close(): void {
    this.trap.close();
    this.#qtest.close();
    closeSync(this.#fd);
  }
}
