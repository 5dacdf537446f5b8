import type { Memory } from '../../../src/ports/memory.ts';
import type { Said } from '../../../src/ports/tell.ts';
import type { VtdReplayMachine } from './replayed.ts';

/** What every IOAS of a run holds, kept from what the host says it did. Pages count 4 KiB. */
export class Ledger {
  readonly ioas = new Map<number, Map<number, { readonly gpa: number; readonly perm: number }>>();
  readonly #base: bigint;

  /** @param base the VMM's address of guest-physical 0. */
  constructor(base: bigint) {
    this.#base = base;
  }

  hear(said: Said): void {
    if (said.what !== 'host' || said.result !== 0) return;
    const a = said.args as Record<string, bigint | number>;
    if (said.verb === 'IOAS_MAP') {
      const space = this.#space(Number(a.ioas));
      for (let at = 0n; at < BigInt(a.length!); at += 4096n) {
        const gpa = Number((BigInt(a.userVa!) - this.#base + at) / 4096n);
        space.set(Number((BigInt(a.iova!) + at) / 4096n), { gpa, perm: Number(a.flags) >> 1 });
      }
    } else if (said.verb === 'IOAS_UNMAP') {
      const space = this.#space(Number(a.ioas));
      if (BigInt(a.length!) === 0xffff_ffff_ffff_ffffn) space.clear();
      else for (let at = 0n; at < BigInt(a.length!); at += 4096n) space.delete(Number((BigInt(a.iova!) + at) / 4096n));
    } else if (said.verb === 'DESTROY') {
      this.ioas.delete(Number(a.id));
    }
  }

  #space(id: number): Map<number, { readonly gpa: number; readonly perm: number }> {
    const s = this.ioas.get(id) ?? new Map();
    this.ioas.set(id, s);
    return s;
  }
}

/** One guest second stage: domain, root (bytes), levels. */
export interface GuestStage {
  readonly did: number;
  readonly root: number;
  readonly levels: number;
  readonly hwptId: number;
}

/** The second stages the device shadows now. */
export function stagesOf(machine: VtdReplayMachine): GuestStage[] {
  const out = new Map<number, GuestStage>();
  for (const a of machine.unit.device.attachments()) {
    const m = /^(?:second|nest) (\d+) (\d+) (\d+)$/.exec(a.key);
    if (m === null) continue;
    out.set(a.hwptId, { did: Number(m[1]), root: Number(m[2]), levels: Number(m[3]), hwptId: a.hwptId });
  }
  return [...out.values()];
}

/** Reads a guest's second stage without any of the code under test: input page → output page and permissions, inside RAM. */
export function readStage(memory: Memory, s: GuestStage, inRam: (page: number) => boolean): Map<number, number> {
  const out = new Map<number, number>();
  const visit = (table: number, level: number, base: number, perm: number): void => {
    for (let i = 0; i < 512; i++) {
      if (!memory.load64(table + 8 * i)) return;
      const { lo, hi } = memory;
      const granted = perm & lo & 3;
      if (granted === 0) continue;
      const span = 512 ** (level - 1);
      const address = (hi & 0xf_ffff) * 2 ** 32 + ((lo & ~0xfff) >>> 0);
      if (level > 1 && (lo & 0x80) === 0) {
        visit(address, level - 1, base + i * span, granted);
        continue;
      }
      const first = Math.floor(address / 4096 / span) * span;
      for (let k = 0; k < span; k++) if (inRam(first + k)) out.set(base + i * span + k, (first + k) * 4 + granted);
    }
  };
  visit(s.root, s.levels, 0, 3);
  return out;
}
