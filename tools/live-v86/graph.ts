import type { Said } from '../../src/ports/tell.ts';

/** An HWPT of the host's. */
export interface HwptNode {
  readonly id: number;
  /** What it is on: an IOAS for a paging HWPT, the parent for a nested one. */
  readonly on: number;
  readonly nested: boolean;
}

/** A function, and what each of its address spaces (-1: requests without PASID) is attached to. */
export interface DeviceNode {
  readonly id: number;
  readonly name: string;
  readonly attached: ReadonlyMap<number, number>;
}

/** The host's objects as its operations tell of them: devices, HWPTs and IOASes with what hangs on what. */
export class HostGraph {
  readonly devices = new Map<
    number,
    { readonly id: number; readonly name: string; readonly attached: Map<number, number> }
  >();
  readonly hwpts = new Map<number, HwptNode>();
  readonly ioases = new Set<number>();
  /** Counts changes, for whoever draws. */
  changes = 0;

  tell(said: Said): void {
    if (said.what !== 'host' || said.result !== 0) return;
    const n = (name: string) => Number(said.args[name] ?? 0);
    switch (said.verb) {
      case 'IOAS_ALLOC':
        this.ioases.add(n('id'));
        break;
      case 'HWPT_ALLOC':
        this.hwpts.set(n('hwpt'), { id: n('hwpt'), on: n('pt'), nested: n('type') !== 0 });
        break;
      case 'DESTROY':
        this.hwpts.delete(n('id'));
        this.ioases.delete(n('id'));
        break;
      case 'BIND':
        this.devices.set(n('dev'), { id: n('dev'), name: String(said.args.device), attached: new Map() });
        break;
      case 'UNBIND':
        this.devices.delete(n('dev'));
        break;
      case 'ATTACH':
      case 'REPLACE':
        this.devices.get(n('dev'))?.attached.set(n('pasid'), n('pt'));
        break;
      case 'DETACH':
        this.devices.get(n('dev'))?.attached.delete(n('pasid'));
        break;
      default:
        return;
    }
    this.changes++;
  }

  /** The IOAS at the end of what an HWPT (or IOAS) stands on; the way there, itself first. */
  chain(id: number): readonly number[] {
    const way = [id];
    for (let at = this.hwpts.get(id); at !== undefined && way.length < 8; at = this.hwpts.get(at.on)) way.push(at.on);
    return way;
  }
}
