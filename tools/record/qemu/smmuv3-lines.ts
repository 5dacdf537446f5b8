import { PAGE1, PAGE1_BASE } from '../../../src/spec/smmuv3/index.ts';
import type { Collector } from './collector.ts';
import { hex, number, PERMS, small, type Told } from './lines.ts';

/** smmuv3_trigger_irq's numbers. */
const LINES = ['evtq', 'priq', 'cmd_sync', 'gerror'] as const;
/** QEMU prints the indices of event and PRI queue at their offsets in page 0. */
const COPIES: ReadonlySet<number> = new Set(
  [PAGE1.EVENTQ_PROD, PAGE1.EVENTQ_CONS, PAGE1.PRIQ_PROD, PAGE1.PRIQ_CONS].map((r) => r.at),
);
const GRANULE = [12, 12, 14, 16] as const;

/** Which lines QEMU prints of an SMMUv3, as patterns of `-trace`: a pattern that matches nothing is no complaint. */
export const SMMUV3_TRACE = [
  'smmuv3_read_mmio*',
  'smmuv3_write_mmio*',
  'smmuv3_translate_*',
  'smmuv3_propagate_event*',
  'smmuv3_record_event*',
  'smmuv3_cmdq_opcode*',
  'smmu_iotlb_lookup_*',
  'smmu_iotlb_insert*',
  'smmuv3_trigger_irq*',
  'smmu_reset_exit*',
] as const;

/** A register access as QEMU's own line tells it. */
export function smmuv3Access(t: 'r' | 'w', line: string): { t: 'r' | 'w'; off: string; size: number; val: string } {
  const at = small(line, 'addr');
  return {
    t,
    off: hex(COPIES.has(at) ? at + PAGE1_BASE : at),
    size: small(line, 'size'),
    val: hex(number(line, 'val')),
  };
}

/** Turns what QEMU prints of an SMMUv3 into events. */
export class Smmuv3Lines {
  readonly #to: Collector;
  readonly #count: (command: string) => void;
  #told: Told = {};

  constructor(to: Collector, count: (command: string) => void) {
    this.#to = to;
    this.#count = count;
  }

  /** @param started the guest has accessed a register. @throws Unreadable. */
  line(name: string, line: string, started: boolean): void {
    switch (name) {
      case 'smmu_iotlb_lookup_hit':
        this.#told = { tlb: 'hit' };
        return;
      case 'smmu_iotlb_lookup_miss':
        this.#told = { tlb: 'miss' };
        return;
      case 'smmu_iotlb_insert': {
        const granule = GRANULE[small(line, 'tg')] ?? 12;
        const bytes = 2n ** BigInt(granule + (3 - small(line, 'level')) * (granule - 3));
        this.#told = { tlb: 'miss', pageSize: hex(bytes), asid: small(line, 'asid') };
        return;
      }
      case 'smmuv3_translate_success': {
        const told = this.#told;
        this.#told = {};
        const perm = PERMS[small(line, 'perm') & 3]!;
        const [iova, out] = [hex(number(line, 'iova')), hex(number(line, 'translated'))];
        this.#to.add({ t: 'xlat', sid: small(line, 'sid'), iova, perm, out, stage: small(line, 'stage'), ...told });
        return;
      }
      case 'smmuv3_translate_bypass':
      case 'smmuv3_translate_disable': {
        if (!started) return;
        const mode = name === 'smmuv3_translate_bypass' ? 'bypass' : 'disabled';
        const iova = hex(number(line, 'iova'));
        const perm = small(line, 'is_write') === 1 ? 'w' : 'r';
        this.#to.add({ t: 'xlat', sid: small(line, 'sid'), iova, perm, out: iova, mode });
        return;
      }
      case 'smmuv3_translate_abort': {
        const write = small(line, 'is_write') === 1;
        this.#to.add({ t: 'fault', sid: small(line, 'sid'), iova: hex(number(line, 'iova')), write, type: 'abort' });
        return;
      }
      case 'smmuv3_propagate_event':
      case 'smmuv3_record_event':
        this.#to.fault(small(line, 'sid'), /^\S+\s+(\w+)/.exec(line)?.[1] ?? '');
        return;
      case 'smmuv3_cmdq_opcode':
        this.#count(line.replace(/^.*<---\s*/, '').trim());
        return;
      case 'smmuv3_trigger_irq':
        this.#to.add({ t: 'irq', line: LINES[small(line, 'irq')] ?? 'gerror' });
        return;
    }
  }
}
