import type { RegisterTable } from '../core/registers.ts';
import { PAGE0, PAGE1, PAGE1_BASE } from '../spec/smmuv3/registers.ts';
import { PAGE } from '../spec/vtd/registers.ts';
import type { IommuKind } from '../trace/index.ts';

/** A register of an IOMMU's window. */
export interface NamedRegister {
  /** As the specification spells it. */
  readonly name: string;
  /** Offset in the window (bytes). */
  readonly at: number;
  /** 4 or 8 (bytes). */
  readonly size: number;
}

function named(table: RegisterTable, base: number): NamedRegister[] {
  return Object.entries(table).map(([name, r]) => ({ name, at: base + r.at, size: r.size }));
}

/** Every register by name, in the order of the specification's tables. */
export const WINDOW_REGISTERS: { readonly [kind in IommuKind]: readonly NamedRegister[] } = {
  smmuv3: [...named(PAGE0, 0), ...named(PAGE1, PAGE1_BASE)],
  vtd: named(PAGE, 0),
};

const BY_OFFSET = {
  smmuv3: new Map(WINDOW_REGISTERS.smmuv3.map((r) => [r.at, r.name])),
  vtd: new Map(WINDOW_REGISTERS.vtd.map((r) => [r.at, r.name])),
};

/** The register at an offset (bytes) of the window, its upper half as `NAME+4`; one without a name by its offset. */
export function registerName(kind: IommuKind, offset: number): string {
  const names = BY_OFFSET[kind];
  const upper = names.get(offset - 4);
  return names.get(offset) ?? (upper === undefined ? `register 0x${offset.toString(16)}` : `${upper}+4`);
}
