import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';

/** An event of a recording as the file has it. */
export type Line = Record<string, unknown>;

export interface File {
  readonly header: Line & { readonly source: { readonly cmdline: string; readonly commands: Record<string, number> } };
  readonly events: readonly Line[];
}

/** A recording of this repository. */
export function recording(name: string): File {
  const bytes = gunzipSync(readFileSync(`guest-fixtures/recordings/${name}.ndjson.gz`));
  const [header, ...events] = bytes
    .toString()
    .trimEnd()
    .split('\n')
    .map((l) => JSON.parse(l) as Line);
  return { header: header as File['header'], events };
}

const PERM: Readonly<Record<string, number>> = { '': 0, r: 1, w: 2, rw: 3 };
const IRQ: Readonly<Record<string, number>> = { evtq: 0, priq: 1, cmd_sync: 2, gerror: 3 };

function little(val: string, size: number): string {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(val));
  return bytes.subarray(0, size).toString('hex');
}

/** What the plugin prints of an event; null: QEMU tells of it. */
function plugin(e: Line): string[] | null {
  const bytes = (data: unknown): string => Buffer.from(String(data), 'base64').toString('hex');
  switch (e.t) {
    case 'page':
      return e.zero === true ? [`@Z ${e.gpa} ${e.kind}`] : [`@K ${e.kind}`, `@P ${e.gpa} ${bytes(e.data)}`];
    case 'st':
      return [`@${e.src === 'diff' ? 'D' : 'S'} ${e.gpa} ${little(String(e.val), Number(e.size))}`];
    case 'drop':
      return [`@X ${e.gpa}`];
  }
  return null;
}

/** Offsets that QEMU's trace prints without their page. */
function traced(off: string): string {
  const n = Number(off);
  return n >= 0x1_0000 ? `0x${(n - 0x1_0000).toString(16)}` : off;
}

/** What QEMU 11 prints of an event of its SMMUv3, and the plugin. */
function smmuv3(e: Line): string[] {
  const own = plugin(e);
  if (own !== null) return own;
  switch (e.t) {
    case 'r':
    case 'w': {
      const what = e.t === 'r' ? 'read' : 'write';
      return [
        `smmuv3_${what}_mmio addr: ${traced(String(e.off))} val:${e.val} size: 0x${e.size}(0)`,
        `@${String(e.t).toUpperCase()} ${e.off} ${e.size} ${e.val}`,
      ];
    }
    case 'xlat': {
      if (e.mode !== undefined)
        return [
          `smmuv3_translate_${e.mode === 'bypass' ? 'bypass' : 'disable'} smmuv3-iommu-memory-region-0-0 sid=0x${Number(e.sid).toString(16)} bypass (smmu disabled) iova:${e.iova} is_write=${e.perm === 'w' ? 1 : 0}`,
        ];
      const lines = [`smmu_iotlb_lookup_${e.tlb} IOTLB cache asid=0 vmid=-1 addr=${e.iova}`];
      if (e.pageSize !== undefined) {
        const bits = Math.log2(Number(e.pageSize));
        const [tg, level] = (
          [
            [1, 12],
            [2, 14],
            [3, 16],
          ] as const
        )
          .map(([t, g]) => [t, 3 - (bits - g) / (g - 3)] as const)
          .find(([, l]) => Number.isInteger(l) && l >= 1)!;
        lines.push(`smmu_iotlb_insert IOTLB ++ asid=${e.asid} vmid=-1 addr=${e.iova} tg=${tg} level=${level}`);
      }
      const perm = `0x${PERM[String(e.perm)]!.toString(16)}`;
      lines.push(
        `smmuv3_translate_success smmuv3-iommu-memory-region-0-0 sid=0x${Number(e.sid).toString(16)} iova=${e.iova} translated=${e.out} perm=${perm} stage=${e.stage}`,
      );
      return lines;
    }
    case 'fault':
      if (e.type === 'abort')
        return [
          `smmuv3_translate_abort smmuv3-iommu-memory-region-0-0 sid=0x${Number(e.sid).toString(16)} abort on iova:${e.iova} is_write=${e.write === true ? 1 : 0}`,
        ];
      return [`smmuv3_propagate_event SMMU_EVT_${e.type} sid=0x${Number(e.sid).toString(16)}`];
    case 'dst':
      return [`@E ${e.gpa} ${Buffer.from(String(e.data), 'base64').toString('hex')}`];
    case 'irq':
      return [`smmuv3_trigger_irq irq=${IRQ[String(e.line)]}`];
    case 'reset':
      return ['smmu_reset_exit '];
  }
  return [];
}

/** What QEMU 11 prints of an event of its VT-d unit, and the plugin. */
function vtd(e: Line): string[] {
  const own = plugin(e);
  if (own !== null) return own;
  switch (e.t) {
    case 'r':
      return [`vtd_reg_read addr ${e.off} size 0x${e.size}`, `@R ${e.off} ${e.size} ${e.val}`];
    case 'w':
      return [`vtd_reg_write addr ${e.off} size 0x${e.size} value ${e.val}`, `@W ${e.off} ${e.size} ${e.val}`];
    case 'xlat': {
      const sid = Number(e.sid);
      const mask = BigInt(String(e.pageSize)) - 1n;
      const [iova, out] = [BigInt(String(e.iova)), BigInt(String(e.out))];
      const hex = (v: bigint): string => `0x${v.toString(16)}`;
      const fn = `${(sid >> 8).toString(16)}:${((sid >> 3) & 31).toString(16)}.${sid & 7}`;
      const line = `vtd_dmar_translate dev ${fn} iova ${hex(iova - (iova & mask))} -> gpa ${hex(out - (out & mask))} mask ${hex(mask)}`;
      if (e.mode !== undefined)
        return [...(e.mode === 'passthrough' ? ['vtd_translate_pt source_id 0x0, iova 0x0'] : []), line];
      const lookup = e.tlb === 'hit' ? 'vtd_iotlb_page_hit IOTLB page hit' : 'vtd_iotlb_page_update IOTLB page update';
      return [
        `${lookup} sid 0x${sid.toString(16)} iova ${e.iova} slpte ${e.pte} domain 0x${Number(e.did).toString(16)}`,
        line,
      ];
    }
    case 'fault':
      if (e.frr !== undefined) return [`vtd_frr_new index ${e.frr} high ${e.hi} low ${e.lo}`];
      return [
        `vtd_dmar_fault sid 0x${Number(e.sid).toString(16)} fault ${e.reason} addr ${e.iova} write ${e.write === true ? 1 : 0}`,
      ];
    case 'dst':
      return [
        `vtd_inv_desc_wait_sw wait invalidate status write addr ${e.gpa} data 0x${Buffer.from(String(e.data), 'base64').readUInt32LE().toString(16)}`,
      ];
    case 'irq': {
      if (e.remap !== true) return [`vtd_irq_generate addr ${e.addr} data ${e.data}`];
      const irte = e.irte as { index: number; lo: string; hi: string } | undefined;
      const entry =
        irte === undefined
          ? []
          : [`vtd_ir_irte_get index ${irte.index} low ${irte.hi} high ${irte.lo}`, 'vtd_ir_remap index 0'];
      return [...entry, `vtd_ir_remap_msi (addr ${e.addr}, data ${e.data}) -> (addr ${e.outAddr}, data ${e.outData})`];
    }
    case 'reset':
      return ['vtd_reset_exit '];
  }
  return [];
}

/** The log of a QEMU whose guest did what a recording has. */
export function logOf({ header, events }: File): string {
  const of = header.iommu === 'smmuv3' ? smmuv3 : vtd;
  const counts = Object.entries(header.source.commands).flatMap(([name, count]) => {
    const line =
      header.iommu === 'smmuv3'
        ? `smmuv3_cmdq_opcode <--- ${name}`
        : `vtd_inv_desc invalidate desc type ${name} high 0x0 low 0x0`;
    return Array<string>(count).fill(line);
  });
  return `${[...events.flatMap(of), ...counts, '@Q stores=1 differences=0 pages=1 looked=1'].join('\n')}\n`;
}
