import { Shell, type ShellOptions } from '../shell.ts';
import { NvmeController, type NvmeState } from './controller.ts';
import type { Disk } from './disk.ts';
import type { NvmeIdentity } from './identify.ts';
import { QUEUE_LIMIT } from './queues.ts';
import { StallableDma } from './stalls.ts';
import { checkNvme } from './state-form.ts';

/** BAR0: registers, doorbells, then the MSI-X structures. */
const BAR = { BYTES: 0x4000, TABLE: 0x2000, PENDING: 0x3000 } as const;

/** How an NVMe function is made: its disk, identity and capabilities. */
export interface NvmeOptions extends Partial<Pick<ShellOptions, 'ats' | 'pri' | 'pasid' | 'atc' | 'translatedOnly'>> {
  /** Its one namespace. */
  readonly disk: Disk;
  /** Name of the function (default: `nvme`). */
  readonly name?: string;
  /** What Identify Controller says; the rest has defaults. */
  readonly identity?: Partial<NvmeIdentity>;
  /** On a root bus without a link. */
  readonly integrated?: boolean;
  /** No MSI-X: the pin only. */
  readonly pinOnly?: boolean;
}

/**
 * An NVMe function for the stock driver of any OS: MSI-X or the pin, ATS with an ATC of its own, PRI and PASID
 * capabilities. All its DMA is without PASID.
 */
export class NvmeFunction {
  /** What is plugged in. */
  readonly fn: Shell;
  /** Registers and queues behind BAR0. */
  readonly controller: NvmeController;

  constructor(options: NvmeOptions) {
    this.fn = new Shell({
      name: options.name ?? 'nvme',
      identity: { vendor: 0x1b36, device: 0x0010, classCode: 0x010802, revision: 2, pin: 1 },
      bars: [{ index: 0, bytes: BAR.BYTES, kind: 'mem64' }],
      ...(options.pinOnly === true
        ? {}
        : { msix: { vectors: QUEUE_LIMIT, bar: 0, table: BAR.TABLE, pending: BAR.PENDING } }),
      ats: options.ats === undefined ? {} : options.ats,
      pri: options.pri === undefined ? { capacity: 32 } : options.pri,
      pasid: options.pasid === undefined ? { width: 20 } : options.pasid,
      ...(options.atc === undefined ? {} : { atc: options.atc }),
      ...(options.translatedOnly === undefined ? {} : { translatedOnly: options.translatedOnly }),
      ...(options.integrated === undefined ? {} : { integrated: options.integrated }),
    });
    const { memory, interrupts } = this.fn;
    const dma = new StallableDma(memory);
    this.controller = new NvmeController({
      disk: options.disk,
      identity: { vendor: 0x1b36, serial: 'VIOMMU0001', model: 'viommu NVMe', firmware: '1.0', ...options.identity },
      vectors: QUEUE_LIMIT,
      dma,
      stalls: dma,
      work: () => memory.upstream?.work ?? null,
      interrupt: (vector, pending) => {
        if (pending) interrupts.raise(vector);
        else interrupts.clear(vector);
      },
    });
    this.fn.behave({
      barRead: (_, offset, size) => this.#read(offset, size),
      barWrite: (_, offset, size, value) => {
        if (size === 4) this.controller.write(offset, value);
      },
      reset: () => this.controller.reset(),
      save: () => this.controller.save(),
      checkState: (state, path) => checkNvme(state, path, this.controller.save().regs, QUEUE_LIMIT),
      resumed: (token, outcome) => this.controller.resumed(token, outcome),
      load: (state, cold) => this.controller.load(state as NvmeState, cold),
    });
  }

  #read(offset: number, size: number): number {
    const word = this.controller.read(offset & ~3);
    return size === 4 ? word : (word >>> (8 * (offset & 3))) & (size === 2 ? 0xffff : 0xff);
  }
}
