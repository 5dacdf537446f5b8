import type { Said } from '../../src/ports/tell.ts';
import { HWPT_DATA, HWPT_FLAG } from '../../src/spec/iommufd/uapi.ts';
import { hex } from './guest.ts';

type Args = Extract<Said, { what: 'host' }>['args'];

/** An object of the host's iommufd. */
export interface HostObject {
  readonly id: number;
  /** What it is, in words. */
  readonly text: string;
  /** What it stands on; 0: nothing. */
  readonly parent: number;
}

/** What a device, or a PASID of it, is attached to. */
export interface HostAttachment {
  readonly device: string;
  /** -1: requests without a PASID. */
  readonly pasid: number;
  /** The object it is attached to. */
  readonly to: number;
}

const CONFIGS = ['abort', 'abort', 'abort', 'abort', 'bypass', 'stage 1', 'stage 2', 'stage 1 over stage 2'];

function hwptKind(type: number, data: bigint): string {
  if (type === HWPT_DATA.NONE) return 'host tables';
  if (type === HWPT_DATA.VTD_S1) return `the guest's first stage at ${hex((data >> 64n) & ((1n << 64n) - 1n))}`;
  const config = (data & 1n) === 0n ? 'abort' : CONFIGS[Number((data >> 1n) & 7n)];
  const context = config === 'stage 1' ? `, contexts at ${hex(data & 0xf_ffff_ffff_ffc0n)}` : '';
  return `the guest's stream entry: ${config}${context}`;
}

/**
 * The host's objects, put together from the operations that made and destroyed them: what `viommu explain` shows of the
 * host needs nothing but what anybody can hear.
 */
export class HostObjects {
  readonly #objects = new Map<number, HostObject>();
  readonly #devices = new Map<number, string>();
  /** Device id → PASID (-1: none) → what is attached. */
  readonly #attached = new Map<number, Map<number, number>>();
  readonly #counts = new Map<string, number>();

  readonly tell = (said: Said): void => {
    if (said.what !== 'host') return;
    this.#counts.set(said.verb, (this.#counts.get(said.verb) ?? 0) + 1);
    if (said.result >= 0) this.#done(said.verb, said.args);
  };

  #done(verb: string, a: Args): void {
    const n = (key: string) => Number(a[key] ?? 0);
    switch (verb) {
      case 'BIND':
        this.#devices.set(n('dev'), String(a.device ?? ''));
        return;
      case 'UNBIND':
        this.#devices.delete(n('dev'));
        this.#attached.delete(n('dev'));
        return;
      case 'IOAS_ALLOC':
        this.#add(n('id'), 'address space (IOAS)', 0);
        return;
      case 'HWPT_ALLOC': {
        const parent = (n('flags') & HWPT_FLAG.NEST_PARENT) !== 0 ? ', can be nested on' : '';
        const kind = hwptKind(n('type'), BigInt(a.data ?? 0));
        this.#add(n('hwpt'), `${kind} (HWPT)${parent}`, n('pt'));
        return;
      }
      case 'VIOMMU_ALLOC':
        this.#add(n('id'), 'virtual IOMMU (vIOMMU)', n('hwpt'));
        return;
      case 'VDEVICE_ALLOC': {
        const device = this.#devices.get(n('dev')) ?? n('dev');
        this.#add(n('id'), `stream ${hex(BigInt(a.virtId ?? 0))} is device ${device} (vDEVICE)`, n('viommu'));
        return;
      }
      case 'VEVENTQ_ALLOC':
        this.#add(n('id'), 'event queue (vEVENTQ)', n('viommu'));
        return;
      case 'FAULT_QUEUE_ALLOC':
        this.#add(n('id'), 'fault queue', 0);
        return;
      case 'ATTACH':
      case 'REPLACE': {
        const slots = this.#attached.get(n('dev')) ?? new Map<number, number>();
        slots.set(n('pasid'), n('pt'));
        this.#attached.set(n('dev'), slots);
        return;
      }
      case 'DETACH':
        this.#attached.get(n('dev'))?.delete(n('pasid'));
        return;
      case 'DESTROY':
        this.#objects.delete(n('id'));
        return;
    }
  }

  #add(id: number, text: string, parent: number): void {
    this.#objects.set(id, { id, text, parent });
  }

  /** Everything there is, in the order of its making. */
  objects(): HostObject[] {
    return [...this.#objects.values()];
  }

  /** Devices that are bound, by name. */
  devices(): string[] {
    return [...this.#devices.values()];
  }

  attachments(): HostAttachment[] {
    return [...this.#attached].flatMap(([dev, slots]) =>
      [...slots].map(([pasid, to]) => ({ device: this.#devices.get(dev) ?? `${dev}`, pasid, to })),
    );
  }

  /** Operations so far, by verb. */
  counts(): [verb: string, count: number][] {
    return [...this.#counts].toSorted();
  }

  #users(id: number): string {
    const names = this.attachments()
      .filter(({ to }) => to === id)
      .map(({ device, pasid }) => `${device}${pasid < 0 ? '' : ` PASID ${hex(pasid)}`}`);
    return names.length === 0 ? '' : `, attached: ${names.join(', ')}`;
  }

  #tree(parent: number, depth: number): string[] {
    const lines: string[] = [];
    for (const o of this.#objects.values()) {
      if (o.parent !== parent) continue;
      lines.push(`${'  '.repeat(depth)}${o.id}: ${o.text}${this.#users(o.id)}`, ...this.#tree(o.id, depth + 1));
    }
    return lines;
  }

  lines(): string[] {
    const lines = ['Host objects', ...this.#tree(0, 1)];
    if (lines.length === 1) lines.push('  none');
    lines.push('', 'Host operations so far');
    for (const [verb, count] of this.counts()) lines.push(`  ${verb.padEnd(20)} ${count}`);
    return lines;
  }
}
