import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

export type Line = { readonly [key: string]: unknown };

export const SMMU_HEADER: Line = {
  t: 'header',
  format: 'viommu-trace',
  version: 1,
  iommu: 'smmuv3',
  source: { cmdline: 'qemu-system-aarch64 -M virt,iommu=smmuv3', commands: {} },
  mmio: { base: '0x9050000', size: '0x20000' },
  ram: [{ gpa: '0x40000000', size: '0x100000' }],
  devices: [{ name: 'edu', bdf: '0000:00:06.0', sid: 48, driver: null, ats: false, pasid: false }],
};

/** Numbers the events, unless they bring their own `i`. */
export function numbered(events: readonly Line[]): Line[] {
  return events.map((e, i) => ({ i, ...e }));
}

/** A folder for recordings of one test file. */
export class TraceFolder {
  readonly #path = mkdtempSync(join(tmpdir(), 'viommu-trace-'));
  #count = 0;

  bytes(content: Uint8Array): string {
    const path = join(this.#path, `t${this.#count++}.ndjson.gz`);
    writeFileSync(path, content);
    return path;
  }

  text(content: string): string {
    return this.bytes(gzipSync(content, { level: 1 }));
  }

  lines(header: Line, events: readonly Line[]): string {
    return this.text(`${[header, ...events].map((l) => JSON.stringify(l)).join('\n')}\n`);
  }

  remove(): void {
    rmSync(this.#path, { recursive: true });
  }
}
