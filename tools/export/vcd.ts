import { toBigint } from '../../src/core/bits.ts';
import { LANE, WINDOW_REGISTERS } from '../../src/history/index.ts';
import type { TraceEvent } from '../../src/trace/index.ts';
import type { MakeExporter } from './exporter.ts';

const FIRST_CODE = 33;
const CODES = 94;

/** The n-th identifier code of a value change dump: printable characters (IEEE 1364 §18.2.1). */
function code(n: number): string {
  const rest = Math.floor(n / CODES);
  return (rest === 0 ? '' : code(rest - 1)) + String.fromCharCode(FIRST_CODE + (n % CODES));
}

/** Interrupts of the IOMMU itself as the machine names them, and `message` for those of a log that names none. */
const LINES = {
  smmuv3: ['evtq', 'priq', 'cmd_sync', 'gerror'],
  vtd: ['fault', 'invalidation', 'page', 'message'],
} as const;

/**
 * A value change dump (IEEE 1364 §18) of the IOMMU's registers, as the guest would read them, and of its interrupts. Time is
 * the number of the event, one microsecond each; an interrupt is high for half of it.
 */
export const vcd: MakeExporter = ({ file, header, target }, write) => {
  const registers = WINDOW_REGISTERS[header.iommu]
    .filter((r) => r.at + r.size <= header.mmio.size)
    .map((r, n) => ({ ...r, code: code(n), last: '' }));
  const lines = new Map(LINES[header.iommu].map((name, n) => [name as string, code(registers.length + n)]));
  write(`$comment ${file.replaceAll('$', '_')}: time is the number of the event $end\n$timescale 1 ns $end\n`);
  write('$scope module iommu $end\n');
  for (const r of registers) write(`$var reg ${r.size * 8} ${r.code} ${r.name} [${r.size * 8 - 1}:0] $end\n`);
  for (const [name, c] of lines) write(`$var wire 1 ${c} irq_${name} $end\n`);
  write('$upscope $end\n$enddefinitions $end\n');

  const change = (r: (typeof registers)[number], lo: number, hi: number): string => {
    const value = toBigint(lo, r.size === 8 ? hi : 0).toString(2);
    if (value === r.last) return '';
    r.last = value;
    return `b${value} ${r.code}\n`;
  };
  /** All registers as they read now; without a machine the one that was accessed, as a whole. */
  const changes = (e: TraceEvent | null): string => {
    if (target !== null)
      return registers
        .map((r) => {
          target.read(r.at, r.size);
          return change(r, target.lo, target.hi);
        })
        .join('');
    const r = e?.t === 'r' || e?.t === 'w' ? registers.find((x) => x.at === e.off && x.size === e.size) : undefined;
    return r === undefined || e === null || !('lo' in e) ? '' : change(r, e.lo, e.hi);
  };

  write(`#0\n$dumpvars\n${changes(null)}${[...lines.values()].map((c) => `0${c}\n`).join('')}$end\n`);
  let raised: string[] = [];
  return {
    moment(m) {
      const line = m.lane === LANE.INTERRUPTS ? lines.get(m.name) : undefined;
      if (line !== undefined && !raised.includes(line)) raised.push(line);
    },
    event(e) {
      // Stores and pages change no register.
      const looks = e.t !== 'st' && e.t !== 'page' && e.t !== 'drop' && e.t !== 'note';
      const text = (looks ? changes(e) : '') + raised.map((c) => `1${c}\n`).join('');
      const at = (e.i + 1) * 1000;
      if (text !== '') write(`#${at}\n${text}`);
      if (raised.length > 0) write(`#${at + 500}\n${raised.map((c) => `0${c}\n`).join('')}`);
      raised = [];
    },
  };
};
