import type { Memory } from '../../../src/ports/memory.ts';
import type { Said } from '../../../src/ports/tell.ts';
import type { VtdReplayMachine } from './replayed.ts';

/** What the table of every shadow of a run holds, kept from what the host says it did. Pages count 4 KiB. */
export class Ledger {
  /** By HWPT. */
  readonly tables = new Map<number, Map<number, { readonly gpa: number; readonly perm: number }>>();

  hear(said: Said): void {
    if (said.what !== 'host' || said.result !== 0) return;
    const a = said.args as Record<string, number>;
    if (said.verb === 'SHADOW_MAP') {
      const table = this.#table(a.hwpt!);
      for (let n = 0; n < a.pages!; n++) {
        if (!table.has(a.page! + n)) table.set(a.page! + n, { gpa: a.gpa! + n, perm: a.perm! });
      }
    } else if (said.verb === 'SHADOW_UNMAP') {
      for (let n = 0; n < a.pages!; n++) this.#table(a.hwpt!).delete(a.page! + n);
    } else if (said.verb === 'SHADOW_CLEAR') {
      this.#table(a.hwpt!).clear();
    } else if (said.verb === 'DESTROY') {
      this.tables.delete(a.id!);
    }
  }

  #table(hwpt: number): Map<number, { readonly gpa: number; readonly perm: number }> {
    const t = this.tables.get(hwpt) ?? new Map();
    this.tables.set(hwpt, t);
    return t;
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
