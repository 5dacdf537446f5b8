import { csv } from './csv.ts';
import type { MakeExporter } from './exporter.ts';
import { json } from './json.ts';
import { perfetto } from './perfetto.ts';
import { vcd } from './vcd.ts';

/** Every format `viommu export` knows, by the name `--to` takes. */
export const FORMATS: { readonly [name: string]: { readonly make: MakeExporter; readonly binary: boolean } } = {
  perfetto: { make: perfetto, binary: true },
  vcd: { make: vcd, binary: false },
  csv: { make: csv, binary: false },
  json: { make: json, binary: false },
};
