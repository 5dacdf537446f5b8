import { ViommuError } from '../../core/errors.ts';
import { ATS_CAP, EXT, PASID_CAP, PRI_CAP } from '../../spec/pcie/capabilities.ts';
import type { ConfigSpace } from './config-space.ts';

/** What an ATS capability says of its function. */
export interface AtsOptions {
  /** Invalidate Queue Depth field: 0 means 32. */
  readonly depth?: number;
  /** Page Aligned Request: untranslated addresses are 4 KiB aligned (default: yes). */
  readonly pageAligned?: boolean;
  /** Global Invalidate Supported (default: no). */
  readonly globalInvalidate?: boolean;
  /** Relaxed Ordering Supported (default: no). */
  readonly relaxedOrdering?: boolean;
}

/** ATS Extended Capability. `onDisable`: Enable went from 1 to 0, and every cached translation must go. */
export class AtsCapability {
  readonly #config: ConfigSpace;
  readonly #at: number;

  /** Adds the capability to `config`. @throws ViommuError `ENOSPC` when there is no room. */
  constructor(config: ConfigSpace, options: AtsOptions, onDisable: () => void) {
    this.#config = config;
    const at = config.addExtended(EXT.ATS, 1, ATS_CAP.BYTES);
    this.#at = at;
    const bits =
      (options.pageAligned === false ? 0 : ATS_CAP.PAGE_ALIGNED) |
      (options.globalInvalidate === true ? ATS_CAP.GLOBAL : 0) |
      (options.relaxedOrdering === true ? ATS_CAP.RELAXED : 0);
    config.preset(at + ATS_CAP.CAP, 2, bits | ((options.depth ?? 0) & ATS_CAP.DEPTH));
    config.writable(at + ATS_CAP.CONTROL, 2, ATS_CAP.ENABLE | ATS_CAP.STU);
    config.watch(at + ATS_CAP.CONTROL, 2, (before, now) => {
      if ((before & ~now & ATS_CAP.ENABLE) !== 0) onDisable();
    });
  }

  /** Software has enabled ATS. */
  get enabled(): boolean {
    return (this.#config.get(this.#at + ATS_CAP.CONTROL, 2) & ATS_CAP.ENABLE) !== 0;
  }

  /** log2 bytes of the smallest translation unit, ≥ 12. */
  get unitShift(): number {
    return 12 + (this.#config.get(this.#at + ATS_CAP.CONTROL, 2) & ATS_CAP.STU);
  }

  /** Global Invalidate Supported. */
  get globalInvalidate(): boolean {
    return (this.#config.get(this.#at + ATS_CAP.CAP, 2) & ATS_CAP.GLOBAL) !== 0;
  }
}

/** What a PRI capability says of its function. */
export interface PriOptions {
  /** Outstanding page requests the function can have. */
  readonly capacity: number;
  /** Responses to requests with a PASID carry it. */
  readonly responseWithPasid?: boolean;
}

/** Page Request Extended Capability. `onReset`: software reset the page request interface (only while disabled). */
export class PriCapability {
  readonly #config: ConfigSpace;
  readonly #at: number;

  /** Adds the capability to `config`. @throws ViommuError `ENOSPC` when there is no room. */
  constructor(config: ConfigSpace, options: PriOptions, onReset: () => void) {
    this.#config = config;
    const at = config.addExtended(EXT.PRI, 1, PRI_CAP.BYTES);
    this.#at = at;
    config.preset(at + PRI_CAP.STATUS, 2, PRI_CAP.STOPPED | (options.responseWithPasid ? PRI_CAP.PASID_REQUIRED : 0));
    config.preset(at + PRI_CAP.CAPACITY, 4, options.capacity);
    config.changing(at + PRI_CAP.STATUS, 2, PRI_CAP.STOPPED | PRI_CAP.RESPONSE_FAILURE | PRI_CAP.UNEXPECTED_INDEX);
    config.writable(at + PRI_CAP.CONTROL, 2, PRI_CAP.ENABLE);
    config.writable(at + PRI_CAP.ALLOCATION, 4, 0xffff_ffff);
    config.clearable(at + PRI_CAP.STATUS, 2, PRI_CAP.RESPONSE_FAILURE | PRI_CAP.UNEXPECTED_INDEX);
    config.writable(at + PRI_CAP.CONTROL, 2, PRI_CAP.ENABLE | PRI_CAP.RESET);
    config.watch(at + PRI_CAP.CONTROL, 2, (before, now) => {
      config.set(at + PRI_CAP.CONTROL, 2, now & ~PRI_CAP.RESET);
      const status = config.get(at + PRI_CAP.STATUS, 2);
      if ((now & ~before & PRI_CAP.ENABLE) !== 0) {
        const clear = PRI_CAP.STOPPED | PRI_CAP.RESPONSE_FAILURE | PRI_CAP.UNEXPECTED_INDEX;
        config.set(at + PRI_CAP.STATUS, 2, status & ~clear);
      }
      if ((now & PRI_CAP.RESET) !== 0 && (now & PRI_CAP.ENABLE) === 0) onReset();
    });
  }

  /** Software has enabled page requests. */
  get enabled(): boolean {
    return (this.#config.get(this.#at + PRI_CAP.CONTROL, 2) & PRI_CAP.ENABLE) !== 0;
  }

  /** Page requests software lets the function have outstanding. */
  get allocation(): number {
    const asked = this.#config.get(this.#at + PRI_CAP.ALLOCATION, 4);
    return Math.min(asked, this.#config.get(this.#at + PRI_CAP.CAPACITY, 4));
  }

  /** Nothing is outstanding after Enable was cleared. */
  stopped(): void {
    this.#flag(PRI_CAP.STOPPED);
  }

  /** A response with a failure code: the function stops asking until software enables it anew. */
  responseFailure(): void {
    const control = this.#config.get(this.#at + PRI_CAP.CONTROL, 2);
    this.#config.set(this.#at + PRI_CAP.CONTROL, 2, control & ~PRI_CAP.ENABLE);
    this.#flag(PRI_CAP.RESPONSE_FAILURE | PRI_CAP.STOPPED);
  }

  /** A response for a group nobody asked for. */
  unexpectedIndex(): void {
    this.#flag(PRI_CAP.UNEXPECTED_INDEX);
  }

  #flag(bits: number): void {
    this.#config.set(this.#at + PRI_CAP.STATUS, 2, this.#config.get(this.#at + PRI_CAP.STATUS, 2) | bits);
  }
}

/** What a PASID capability says of its function. */
export interface PasidOptions {
  /** 1 … 20 bits. */
  readonly width: number;
  /** Requests with a PASID may ask for execute permission (default: no). */
  readonly exec?: boolean;
  /** Requests with a PASID may be privileged (default: no). */
  readonly priv?: boolean;
}

/** PASID Extended Capability. */
export class PasidCapability {
  readonly #config: ConfigSpace;
  readonly #at: number;

  /**
   * Adds the capability to `config`.
   * @throws ViommuError `ENOSPC` when there is no room; `EINVAL` a width that no PASID has.
   */
  constructor(config: ConfigSpace, options: PasidOptions) {
    this.#config = config;
    const { width } = options;
    if (!Number.isInteger(width) || width < 1 || width > 20) {
      throw new ViommuError('EINVAL', 'caller', 'PASIDs have 1 to 20 bits: give another width, or no PASIDs', {
        width: String(width),
      });
    }
    const at = config.addExtended(EXT.PASID, 1, PASID_CAP.BYTES);
    this.#at = at;
    const able = (options.exec === true ? PASID_CAP.EXEC : 0) | (options.priv === true ? PASID_CAP.PRIV : 0);
    config.preset(at + PASID_CAP.CAP, 2, able | (options.width << 8));
    config.writable(at + PASID_CAP.CONTROL, 2, PASID_CAP.ENABLE | able);
  }

  /** Software has enabled PASIDs. */
  get enabled(): boolean {
    return (this.#control & PASID_CAP.ENABLE) !== 0;
  }

  /** Software lets requests ask for execute permission. */
  get exec(): boolean {
    return (this.#control & PASID_CAP.EXEC) !== 0;
  }

  /** Software lets requests be privileged. */
  get priv(): boolean {
    return (this.#control & PASID_CAP.PRIV) !== 0;
  }

  /** One more than the largest PASID the function can send. */
  get limit(): number {
    return 2 ** ((this.#config.get(this.#at + PASID_CAP.CAP, 2) >>> 8) & 0x1f);
  }

  get #control(): number {
    return this.#config.get(this.#at + PASID_CAP.CONTROL, 2);
  }
}
