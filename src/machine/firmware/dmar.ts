import { acpiTable, type Maker, TableBytes, VIOMMU_MAKER } from './table.ts';

export const DMAR_SCOPE = { ENDPOINT: 1, BRIDGE: 2, IOAPIC: 3, HPET: 4, NAMESPACE: 5 } as const;

/** A device scope: the bus it starts from and the (device, function) hops to it (VT-d §8.3.1). */
export interface DmarScope {
  readonly type: number;
  /** Enumeration id: the IOAPIC's id, else 0. */
  readonly id?: number;
  readonly bus: number;
  readonly path: readonly { readonly device: number; readonly fn: number }[];
}

export type DmarStructure =
  /** One remapping unit (§8.3). */
  | {
      readonly kind: 'drhd';
      readonly base: number;
      readonly segment?: number;
      readonly includeAll?: boolean;
      readonly scopes: readonly DmarScope[];
    }
  /** Reserved memory that must stay mapped for its devices, both bounds inclusive and page aligned (§8.4). */
  | {
      readonly kind: 'rmrr';
      readonly base: number;
      readonly limit: number;
      readonly segment?: number;
      readonly scopes: readonly DmarScope[];
    }
  /** Root ports with ATS behind them (§8.5). */
  | {
      readonly kind: 'atsr';
      readonly allPorts: boolean;
      readonly segment?: number;
      readonly scopes: readonly DmarScope[];
    }
  /** Integrated devices with ATS (§8.8). */
  | {
      readonly kind: 'satc';
      readonly required: boolean;
      readonly segment?: number;
      readonly scopes: readonly DmarScope[];
    }
  /** An ACPI namespace device (§8.7). */
  | { readonly kind: 'andd'; readonly device: number; readonly name: string };

export interface DmarConfig {
  /** Bits of a host address: the guest's aw-bits. */
  readonly hostAddressWidth: number;
  readonly interruptRemapping: boolean;
  readonly x2apicOptOut?: boolean;
  readonly structures: readonly DmarStructure[];
  readonly maker?: Maker;
}

const TYPE = { drhd: 0, rmrr: 1, atsr: 2, andd: 4, satc: 5 } as const;

/** The DMA Remapping Reporting table (VT-d §8.1). @throws ViommuError `ERANGE` for numbers that do not fit. */
export function dmar(config: DmarConfig): Uint8Array {
  const flags = (config.interruptRemapping ? 1 : 0) | (config.x2apicOptOut ? 2 : 0);
  const body = new TableBytes()
    .u8(config.hostAddressWidth - 1)
    .u8(flags)
    .zeros(10);
  for (const s of config.structures) body.append(structure(s));
  return acpiTable('DMAR', 1, body.done(), config.maker ?? VIOMMU_MAKER);
}

function structure(s: DmarStructure): Uint8Array {
  const b = new TableBytes();
  switch (s.kind) {
    case 'drhd':
      b.u8(s.includeAll ? 1 : 0)
        .u8(0)
        .u16(s.segment ?? 0)
        .u64(s.base);
      break;
    case 'rmrr':
      b.u16(0)
        .u16(s.segment ?? 0)
        .u64(s.base)
        .u64(s.limit);
      break;
    case 'atsr':
      b.u8(s.allPorts ? 1 : 0)
        .u8(0)
        .u16(s.segment ?? 0);
      break;
    case 'satc':
      b.u8(s.required ? 1 : 0)
        .u8(0)
        .u16(s.segment ?? 0);
      break;
    case 'andd':
      b.zeros(3)
        .u8(s.device)
        .text(s.name, s.name.length + 1, '\0');
      break;
  }
  if (s.kind !== 'andd') for (const scope of s.scopes) b.append(scopeBytes(scope));
  return new TableBytes()
    .u16(TYPE[s.kind])
    .u16(4 + b.length)
    .append(b.done())
    .done();
}

function scopeBytes(s: DmarScope): Uint8Array {
  const b = new TableBytes()
    .u8(s.type)
    .u8(6 + 2 * s.path.length)
    .u16(0)
    .u8(s.id ?? 0)
    .u8(s.bus);
  for (const hop of s.path) b.u8(hop.device).u8(hop.fn);
  return b.done();
}
