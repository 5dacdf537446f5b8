import type { VirtualQueueInterface, VirtualQueuePort } from '../../../ports/hw.ts';
import type { MemoryWindow } from '../../../ports/memory.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { HW_QUEUE_TYPE, VEVENTQ_TYPE, VIOMMU_TYPE } from '../../../spec/iommufd/uapi.ts';
import type { DriverData, DriverHwQueue, HwQueueOps, Result, ViommuServices } from '../../kernel/driver.ts';
import { answerDriverData, copyDriverData } from '../../kernel/driver-data.ts';

/** Bytes of iommu_viommu_tegra241_cmdqv: offset and length of the register page, for mmap. */
const DATA_BYTES = 16;
/** Bytes of iommu_vevent_tegra241_cmdqv: a bit for each queue with an error. */
const EVENT_BYTES = 16;
const COMMAND_LOG2 = 4;

/** Queues a guest rings itself, and where their registers can be put in host memory. */
export interface CmdqvOptions {
  /** The hardware's queues. */
  readonly port: VirtualQueuePort;
  /** Puts a register page where guests can map it. @returns its host-physical address, and what takes it away. */
  place(window: MemoryWindow, bytes: number): { readonly hpa: number; remove(): void };
}

export interface CmdqvParts {
  readonly vmid: number;
  /** IDR1.CMDQS. */
  readonly cmdqs: number;
  readonly data: DriverData | null;
  readonly services: ViommuServices;
}

/** The Tegra241 part of a vIOMMU: a register page for the guest, its queues, and the streams they may name. */
export class Cmdqv implements HwQueueOps {
  readonly #hw: VirtualQueueInterface;
  readonly #port: VirtualQueuePort;
  readonly #place: { readonly hpa: number; remove(): void };
  readonly #cmdqs: number;
  /** Physical StreamID that has the slot; -1: it is free. */
  readonly #slots: number[];
  readonly #queues = new Set<number>();

  private constructor(
    hw: VirtualQueueInterface,
    port: VirtualQueuePort,
    place: { readonly hpa: number; remove(): void },
    cmdqs: number,
  ) {
    this.#hw = hw;
    this.#port = port;
    this.#place = place;
    this.#cmdqs = cmdqs;
    this.#slots = new Array(port.slots).fill(-1);
  }

  /** @returns -EINVAL, -EFAULT the driver data; -ENOSPC no interface is free; -ENOMEM. */
  static create(o: CmdqvOptions, { vmid, cmdqs, data, services }: CmdqvParts): Result<Cmdqv> {
    const bytes = new Uint8Array(DATA_BYTES);
    const r = copyDriverData(data, VIOMMU_TYPE.TEGRA241_CMDQV, DATA_BYTES, bytes);
    if (r !== 0 || data === null) return r;
    const hw = o.port.open(vmid, (queues) => {
      const event = new Uint8Array(EVENT_BYTES);
      new DataView(event.buffer).setUint32(0, queues, true);
      services.reportEvent(VEVENTQ_TYPE.TEGRA241_CMDQV, event);
    });
    if (hw === null) return -E.NOSPC;
    const place = o.place(hw.window, hw.bytes);
    const offset = services.offerMmap(place.hpa, hw.bytes);
    const view = new DataView(bytes.buffer);
    view.setBigInt64(0, offset, true);
    view.setBigUint64(8, BigInt(hw.bytes), true);
    const answer = offset < 0n ? -E.NOMEM : answerDriverData(data, bytes);
    if (answer !== 0) {
      place.remove();
      hw.close();
      return answer;
    }
    return new Cmdqv(hw, o.port, place, cmdqs);
  }

  /** @returns -EINVAL: the name is wider than a StreamID; -ENOSPC: no slot is free. */
  name(sid: number, virtId: bigint): number {
    if (virtId > 0xffff_ffffn) return -E.INVAL;
    const slot = this.#slots.indexOf(-1);
    if (slot < 0) return -E.NOSPC;
    this.#slots[slot] = sid;
    this.#hw.setStream(slot, Number(virtId), sid);
    return 0;
  }

  unname(sid: number): void {
    const slot = this.#slots.indexOf(sid);
    if (slot < 0) return;
    this.#slots[slot] = -1;
    this.#hw.setStream(slot, 0, -1);
  }

  supported(type: number): boolean {
    return type === HW_QUEUE_TYPE.TEGRA241_CMDQV;
  }

  init(_type: number, index: number, _iova: bigint, hpa: number, length: bigint): Result<DriverHwQueue> {
    if (index >= this.#port.queues) return -E.INVAL;
    if (this.#queues.has(index)) return -E.EXIST;
    if (index > 0 && !this.#queues.has(index - 1)) return -E.IO;
    const bytes = Number(length);
    const log2 = Math.log2(bytes);
    if (!Number.isInteger(log2) || bytes < 32 || log2 > this.#cmdqs + COMMAND_LOG2) return -E.INVAL;
    if (hpa % bytes !== 0) return -E.INVAL;
    this.#queues.add(index);
    this.#hw.setQueue(index, hpa, log2 - COMMAND_LOG2);
    return {
      destroy: () => {
        this.#hw.setQueue(index, -1, 0);
        this.#queues.delete(index);
      },
    };
  }

  destroy(): void {
    this.#place.remove();
    this.#hw.close();
  }
}
