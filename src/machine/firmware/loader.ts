import { facs } from './pc.ts';
import { acpiTable, type Maker, TableBytes, VIOMMU_MAKER } from './table.ts';

/** A file of the fw_cfg directory. */
export interface FwCfgFile {
  readonly name: string;
  readonly data: Uint8Array;
}

const COMMAND = { ALLOCATE: 1, ADD_POINTER: 2, ADD_CHECKSUM: 3, BYTES: 128 } as const;
const ZONE = { HIGH: 1, FSEG: 2 } as const;
const FILE = { tables: 'etc/viommu/tables', rsdp: 'etc/viommu/rsdp', script: 'etc/table-loader' } as const;

/**
 * The files with which SeaBIOS (and OVMF) install exactly our tables: one with the tables, one with the RSDP, and the
 * linker/loader script that allocates both, adds their addresses into every pointer and fixes the checksums.
 * @param fadt the first table; its FACS and DSDT pointers are linked. `tables`: every further complete table.
 */
export function acpiLoaderFiles(
  fadt: Uint8Array,
  dsdt: Uint8Array,
  tables: readonly Uint8Array[],
  maker: Maker = VIOMMU_MAKER,
): FwCfgFile[] {
  const blob = new TableBytes();
  const place = (bytes: Uint8Array, align = 16): number => {
    blob.zeros((align - (blob.length % align)) % align);
    const at = blob.length;
    blob.append(bytes);
    return at;
  };
  const at = { facs: place(facs(), 64), dsdt: place(dsdt), fadt: place(fadt) };
  const listed = [at.fadt, ...tables.map((t) => place(t))];
  const rsdt = place(acpiTable('RSDT', 1, new Uint8Array(4 * listed.length), maker));
  const data = blob.done();
  const view = new DataView(data.buffer);
  const script = new TableBytes();
  const command = (code: number, body: (b: TableBytes) => void) => {
    const b = new TableBytes().u32(code);
    body(b);
    script.append(b.zeros(COMMAND.BYTES - b.length).done());
  };
  const file = (b: TableBytes, f: string) => b.text(f, 56, '\0');
  const pointer = (inFile: string, offset: number, bytes: Uint8Array, target: number) => {
    new DataView(bytes.buffer).setUint32(offset, target, true);
    command(COMMAND.ADD_POINTER, (b) => file(file(b, inFile), FILE.tables).u32(offset).u8(4));
  };
  const checksum = (inFile: string, bytes: Uint8Array, result: number, start: number, length: number) => {
    bytes[result] = 0;
    command(COMMAND.ADD_CHECKSUM, (b) => file(b, inFile).u32(result).u32(start).u32(length));
  };
  command(COMMAND.ALLOCATE, (b) => file(b, FILE.tables).u32(64).u8(ZONE.HIGH));
  command(COMMAND.ALLOCATE, (b) => file(b, FILE.rsdp).u32(16).u8(ZONE.FSEG));
  pointer(FILE.tables, at.fadt + 36, data, at.facs);
  pointer(FILE.tables, at.fadt + 40, data, at.dsdt);
  checksum(FILE.tables, data, at.fadt + 9, at.fadt, view.getUint32(at.fadt + 4, true));
  listed.forEach((target, i) => {
    pointer(FILE.tables, rsdt + 36 + 4 * i, data, target);
  });
  checksum(FILE.tables, data, rsdt + 9, rsdt, view.getUint32(rsdt + 4, true));
  const rsdp = new TableBytes().text('RSD PTR ', 8).u8(0).text(maker.oemId, 6).u8(0).u32(0).done();
  pointer(FILE.rsdp, 16, rsdp, rsdt);
  checksum(FILE.rsdp, rsdp, 8, 0, 20);
  return [
    { name: FILE.rsdp, data: rsdp },
    { name: FILE.tables, data },
    { name: FILE.script, data: script.done() },
  ];
}
