import { toBigint } from '../../src/core/bits.ts';
import { VtdFeatures } from '../../src/lib/check/vtd-features.ts';
import { DRAINED, type PasidDrain } from '../../src/lib/pasid/pasid-drain.ts';
import type { PasidSpace } from '../../src/lib/pasid/pasid-space.ts';
import { HostVerbs } from '../../src/lib/uapi/host-verbs.ts';
import { VtdWalker } from '../../src/lib/walk/vtd.ts';
import { VtdTables } from '../../src/lib/walk/vtd-tables.ts';
import type { InterruptRemapPort } from '../../src/ports/dma.ts';
import type { Iommufd } from '../../src/ports/iommufd.ts';
import type { InterruptPort } from '../../src/ports/irq.ts';
import type { Memory } from '../../src/ports/memory.ts';
import type { MmioDevice } from '../../src/ports/mmio.ts';
import type { Tell } from '../../src/ports/tell.ts';
import type { HostUpcalls } from '../../src/ports/upcalls.ts';
import { Configurator } from './attacher.ts';
import { type Backend, NO_BACKEND } from './backend.ts';
import type { VtdFunction, VtdHost } from './deps.ts';
import { RegisterUnit, type UnitState } from './device.ts';
import { VtdDomains } from './domains.ts';
import { FaultJudge } from './faults.ts';
import { LeafWalk } from './leaf-walk.ts';
import { GuestLookup } from './lookup.ts';
import { GlobalPasids } from './pasid-modes.ts';
import type { VtdDeviations } from './profile.ts';
import { shapeOf, type VtdProperties, type VtdShape } from './properties.ts';
import { QemuTables, type TableReader } from './qemu/tables.ts';
import { QemuWalk } from './qemu/walk.ts';
import { Translation } from './streams.ts';

/** Table entries one eager fill may read, and IOAS_MAPs it may make. */
const FILL_ENTRIES = 1 << 20;
const FILL_MAPS = 65535;

export interface VtdDeps {
  readonly props: VtdProperties;
  /** Single rows of the deviation table, away from the profile's. */
  readonly deviations?: Partial<VtdDeviations>;
  /** Guest-physical memory, windows included. */
  readonly memory: Memory;
  readonly irq: InterruptPort;
  /** The VMM's /dev/iommu; null: a unit without devices behind it (registers and interrupt remapping only). */
  readonly iommufd: Iommufd | null;
  /** Null: linux-only. */
  readonly upcalls: HostUpcalls | null;
  /** IOAS of guest RAM, mapped at its guest-physical addresses. */
  readonly ioasId: number;
  /** The VMM's virtual address of guest RAM; negative when none is there. */
  userVa(gpa: number): bigint;
  /** Bytes of RAM from `gpa` to the end of its region; 0 when none is there. */
  roomAt(gpa: number): number;
  /** RAM regions, ascending. */
  ram(): readonly { readonly gpa: number; readonly bytes: number }[];
  /** Most IOAS_MAPs one eager fill makes (65535 by default, VFIO's own limit); misses do the rest. */
  readonly fillMaps?: number;
  /** The host's PASIDs [min, max), for slices and functions in global mode; local PASIDs lie below `min`. */
  readonly pasids?: PasidSpace;
  /** Twins in global mode, when several units of a VM share them (the processor has one table per VM). */
  readonly globals?: GlobalPasids;
  /** What must be through before a PASID is given out again. Default: nothing is ever in flight. */
  readonly drain?: PasidDrain;
  readonly name?: string;
  readonly tell?: Tell | null;
}

/** The guest-visible vVT-d: its register page, interrupt remapping for the bus, and the host's domains behind it. */
export class Vtd {
  readonly shape: VtdShape;
  readonly unit: RegisterUnit;
  readonly #translation: Translation | null;
  readonly lookup: GuestLookup;

  constructor(deps: VtdDeps) {
    const shape = shapeOf(deps.props, deps.deviations);
    this.shape = shape;
    const made: { translation: Translation | null } = { translation: null };
    this.unit = new RegisterUnit({
      shape,
      memory: deps.memory,
      irq: deps.irq,
      name: deps.name ?? 'vtd',
      ...(deps.drain === undefined ? {} : { drain: deps.drain }),
      backend: (unit): Backend => {
        if (deps.iommufd === null) return NO_BACKEND;
        made.translation = translationOf(unit, deps, hostOf(deps, deps.iommufd));
        return made.translation;
      },
    });
    this.#translation = made.translation;
    this.lookup = lookupOf(this.unit, deps.memory);
    this.unit.tell = deps.tell ?? null;
  }

  get registers(): MmioDevice {
    return this.unit;
  }

  get interrupts(): InterruptRemapPort {
    return this.unit.remapper;
  }

  get tell(): Tell | null {
    return this.unit.tell;
  }
  set tell(tell: Tell | null) {
    this.unit.tell = tell;
  }

  /**
   * Puts a function (its VFIO device bound) behind the unit.
   * @returns takes it away again; close the VFIO device afterwards.
   * @throws ViommuError `EEXIST` when a requester id is taken.
   */
  addDevice(f: VtdFunction): () => void {
    return this.#translation?.add(f) ?? (() => {});
  }

  /** Guest memory is about to go (hot-unplug): nothing of it may stay in what the host repeats of guest tables. */
  forget(gpa: number, bytes: number): void {
    this.#translation?.forget(gpa, bytes);
  }

  /** What every (device, PASID) is attached to now. */
  attachments(): readonly { rid: number; pasid: number; key: string; hwptId: number }[] {
    return this.#translation?.describe() ?? [];
  }

  /**
   * Host PASIDs a guest PASID of a function is attached under: itself; itself and its global twin (what ENQCMD carries);
   * or the real one of a slice (what the device's PASID register must get). Empty while it is not set up.
   */
  hostPasids(rid: number, pasid: number): readonly number[] {
    return this.#translation?.hostPasids(rid, pasid) ?? [];
  }

  reset(): void {
    this.unit.reset();
  }

  save(): UnitState {
    return this.unit.save();
  }

  /** Load memory and the host first. Streams are configured anew, on first use. */
  load(state: UnitState): void {
    this.unit.load(state);
  }
}

function hostOf(deps: VtdDeps, iommufd: Iommufd): VtdHost {
  return {
    verbs: new HostVerbs(iommufd),
    upcalls: deps.upcalls,
    ioasId: deps.ioasId,
    mapLimit: deps.fillMaps ?? FILL_MAPS,
    userVa: (gpa) => deps.userVa(gpa),
    roomAt: (gpa) => deps.roomAt(gpa),
    gapAt: (gpa) => (deps.ram().find((r) => r.gpa > gpa)?.gpa ?? 2 ** 52) - gpa,
  };
}

/** The guest's tables as the unit's capabilities and the profile's deviations read them. */
function walkOf(shape: VtdShape, memory: Memory) {
  const { props, deviations } = shape;
  const transient = props.staleTm && props.deviceIotlb;
  const features = new VtdFeatures(
    toBigint(shape.capLo, shape.capHi),
    toBigint(shape.ecapLo, shape.ecapHi),
    shape.haw,
    transient,
  );
  const snp = features.limits.snp || (deviations.snoopInScalable && props.scalableMode);
  const limits = { ...features.limits, snp };
  const likeQemu =
    deviations.legacyCodes ||
    deviations.typeBeforePresent ||
    deviations.fpdNeedsValid ||
    deviations.pasidReservedUnchecked;
  const reader = (): TableReader => (likeQemu ? new QemuTables(memory, shape) : new VtdTables(memory, features));
  return { limits, reader, walker: new VtdWalker(memory, limits) };
}

function lookupOf(unit: RegisterUnit, memory: Memory): GuestLookup {
  const { reader, walker } = walkOf(unit.shape, memory);
  return new GuestLookup(unit, reader(), walker);
}

function translationOf(unit: RegisterUnit, deps: VtdDeps, host: VtdHost): Translation {
  const { memory } = deps;
  const { shape } = unit;
  const { limits, reader, walker } = walkOf(shape, memory);
  const { verbs, ioasId, upcalls } = host;
  const leaves = new LeafWalk(memory, limits, FILL_ENTRIES);
  const shadow = { verbs, memory: host, walk: walker.second, leaves, fillMaps: host.mapLimit };
  const domains = new VtdDomains({ verbs, ioasId, upcalls, shape, shadow });
  const configurator = new Configurator(unit.root, reader(), domains);
  const judge = new FaultJudge(
    unit,
    reader(),
    walker,
    shape.deviations.permissionFirst ? new QemuWalk(memory, limits) : null,
  );
  const pasids = deps.pasids ?? null;
  const drain = deps.drain ?? DRAINED;
  const globals = deps.globals ?? (pasids === null ? null : new GlobalPasids(pasids, drain));
  return new Translation({ unit, host, memory, domains, configurator, judge, pasids, globals, drain });
}
