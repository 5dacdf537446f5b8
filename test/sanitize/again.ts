import { smmuv3Properties } from '../../devices/smmuv3/properties.ts';
import { vtdProperties } from '../../devices/vtd/properties.ts';
import { ramBacking } from '../../src/lib/memory/address-space.ts';
import { guestRid } from '../../src/lib/pci/rids.ts';
import { parseQemuArgs } from '../../src/lib/qemu-args/qemu-args.ts';
import { type ReplayedIommu, ReplayMachine } from '../../src/machine/replay-machine.ts';
import { ReplayedSmmuv3 } from '../../src/machine/replay-smmuv3.ts';
import { ReplayedVtd } from '../../src/machine/replay-vtd.ts';
import { MachineSanitizer } from '../../src/machine/sanitize.ts';
import type { IommuUnit } from '../../src/machine/unit.ts';
import { VIRT } from '../../src/machine/virt.ts';
import { Vm } from '../../src/machine/vm.ts';
import {
  type RecordedEvent,
  readTrace,
  type TraceEvent,
  type TraceHeader,
  TraceRecorder,
} from '../../src/trace/index.ts';

/** How a machine hears of its guest's stores: it compares memory, or the emulator tells each. */
export type Hearing = 'compared' | 'told';

/** A machine of this package that runs what a recording says its guest did, and is recorded itself. */
export class RecordedAgain {
  readonly recorder: TraceRecorder;
  readonly judge: MachineSanitizer;
  readonly #header: TraceHeader;
  readonly #machine: ReplayMachine;
  readonly #told: boolean;

  constructor(header: TraceHeader, hearing: Hearing) {
    this.#header = header;
    this.#told = hearing === 'told';
    const recorder = new TraceRecorder(header.iommu);
    this.recorder = recorder;
    this.judge = new MachineSanitizer({ iommu: header.iommu, ram: header.ram, devices: header.devices }, recorder);
    const backing = (r: { gpa: number; size: number }) => recorder.watch(r.gpa, ramBacking(r.size));
    const ram = header.ram.map((r) => ({ base: r.gpa, bytes: r.size, backing: backing(r) }));
    const { tell } = recorder;
    const vm = new Vm({ ram, tell });
    const args = parseQemuArgs(header.cmdline);
    const doorbell = VIRT.DOORBELL - (VIRT.DOORBELL % 4096);
    const iommu: ReplayedIommu =
      header.iommu === 'smmuv3'
        ? new ReplayedSmmuv3({ vm, properties: smmuv3Properties(args)[0]!, options: {}, tell, doorbell })
        : new ReplayedVtd({ vm, properties: vtdProperties(args)!, options: {}, tell });
    this.#machine = new ReplayMachine(
      vm,
      this.#watched(iommu, (hpa) => vm.memory.gpaOf(hpa)),
      header,
    );
  }

  /** The IOMMU with its registers and DMA recorded. */
  #watched(iommu: ReplayedIommu, gpaOf: (hpa: number) => number): ReplayedIommu {
    const { recorder } = this;
    const parts: Record<PropertyKey, unknown> = {
      window: recorder.device(iommu.unit.window),
      translate: recorder.translate(iommu.unit.translate, guestRid, gpaOf),
      ats: recorder.ats(iommu.unit.ats, guestRid, gpaOf),
    };
    const unit = new Proxy(iommu.unit, {
      get(target, key) {
        if (key in parts) return parts[key];
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    }) as IommuUnit;
    return new Proxy(iommu, {
      get(target, key) {
        if (key === 'unit') return unit;
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
  }

  /** Lets the guest do what it did. Pages come when something leads to them: they were written before that. */
  run(events: readonly TraceEvent[]): this {
    for (let from = 0; from < events.length; ) {
      let to = from;
      while (to < events.length && ['st', 'page', 'drop', 'note'].includes(events[to]!.t)) to++;
      for (let i = from; i < to; i++) this.#page(events[i]!);
      for (let i = from; i < to; i++) this.#store(events[i]!);
      if (to < events.length) this.#act(events[to]!);
      from = to + 1;
    }
    return this;
  }

  /** What a page holds when something leads to it was stored before: the recording has no stores of that time. */
  #page(e: TraceEvent): void {
    if (e.t !== 'page') return;
    const before = new Uint8Array(4096);
    this.#machine.load(e.gpa, before);
    this.#machine.page(e.gpa, e.data);
    if (!this.#told) return;
    const was = new DataView(before.buffer);
    const now = e.data === null ? null : new DataView(e.data.buffer, e.data.byteOffset, 4096);
    for (let at = 0; at < 4096; at += 8) {
      const lo = now?.getInt32(at, true) ?? 0;
      const hi = now?.getInt32(at + 4, true) ?? 0;
      if (lo !== was.getInt32(at, true) || hi !== was.getInt32(at + 4, true)) this.judge.stored(e.gpa + at, 8, lo, hi);
    }
  }

  #store(e: TraceEvent): void {
    if (e.t !== 'st') return;
    this.#machine.store(e.gpa, e.size, e.lo, e.hi);
    if (this.#told) this.judge.stored(e.gpa, e.size, e.lo, e.hi);
  }

  #act(e: TraceEvent): void {
    const m = this.#machine;
    switch (e.t) {
      case 'r':
        m.read(e.off, e.size);
        return;
      case 'w':
        m.write(e.off, e.size, e.lo, e.hi);
        return;
      case 'xlat':
      case 'fault':
        m.dma(e.sid, e.lo, e.hi, e.access);
        return;
      case 'prq':
        m.pageRequest(e.sid, e.lo, e.hi, e.access, e.group, e.last);
        return;
      case 'reset':
        m.reset();
        this.recorder.reset();
        return;
    }
  }

  /** The recording of it, read again. */
  async events(): Promise<TraceEvent[]> {
    const text = this.recorder.text({ ...this.#header, scenario: 'recorded again' });
    const trace = await readTrace('again', pieces(text));
    const events: TraceEvent[] = [];
    for await (const batch of trace.batches) events.push(...batch);
    return events;
  }
}

async function* pieces(text: string): AsyncGenerator<string> {
  for (let at = 0; at < text.length; at += 1 << 16) yield text.slice(at, at + (1 << 16));
}

/** Kinds of events, for what a recording is made of. */
export function kinds(events: readonly (TraceEvent | RecordedEvent)[]): Record<string, number> {
  const out: Record<string, number> = {};
  for (const e of events) out[String(e.t)] = (out[String(e.t)] ?? 0) + 1;
  return out;
}
