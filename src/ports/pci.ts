/**
 * Bus ↔ function. The bus routes; the function owns its configuration space, its BARs and what they do. Nothing a guest
 * does through this port throws.
 */
export interface PciFunction {
  /** For messages, listings and the host kernel's device name. */
  readonly name: string;
  /** A naturally aligned configuration read of 1, 2 or 4 bytes: unsigned. */
  configRead(offset: number, size: number): number;
  /** A naturally aligned configuration write of 1, 2 or 4 bytes. */
  configWrite(offset: number, size: number, value: number): void;
  /** The windows the function decodes; the order is the `bar` of `barRead` and `barWrite`. */
  readonly windows: readonly PciWindow[];
  /** 1, 2 or 4 bytes, naturally aligned: unsigned. */
  barRead(bar: number, offset: number, size: number): number;
  /** 1, 2 or 4 bytes, naturally aligned. */
  barWrite(bar: number, offset: number, size: number, value: number): void;
  /** The way upstream, when plugged in; null when unplugged (surprise removal: nothing in flight is answered any more). */
  connect(upstream: Upstream | null): void;
  /** Conventional or hot reset: registers, queues and caches as at power-on. */
  reset(): void;
  /**
   * An ATS invalidation request for this function. It answers with `Upstream.invalidateCompletion`.
   * @returns false: unsupported request (no ATS, or not enabled).
   */
  invalidate?(pasid: number, itag: number, lo: number, hi: number, global: boolean): boolean;
  /** The answer to a page request group. */
  pageResponse?(pasid: number, group: number, code: number): void;
  /** A stalled access was decided: DMA.OK means try again. */
  resumed?(token: number, outcome: number): void;
  /** What it does in parts (virtual functions that are on their way) is to come to its end now: the machine is saved. */
  settle?(): void;
  /** Everything it remembers, as plain data; `load` gets that back, also in the middle of its work. */
  save?(): unknown;
  /**
   * Whether `load` would take a state; changes nothing. A function that leaves it out takes all.
   * @param path names the state in messages. @throws ViommuError `EINVAL` names the field that does not fit.
   */
  checkState?(state: unknown, path: string): void;
  /**
   * The functions that `respawn` would bring to life for a state that `checkState` has passed, with their requester ids relative
   * to this one's; they are for checks and are not plugged in. Absent: none.
   */
  spawnedBy?(state: unknown): readonly { readonly offset: number; readonly fn: PciFunction }[];
  /**
   * Goes back to what `save` gave, and goes on with its work.
   * @param state of this function or of one made alike. @param cold the host has made its tables anew: translations that
   *   were cached when it was saved are not valid any more.
   */
  load?(state: unknown, cold: boolean): void;
  /**
   * Brings to life again what the function had spawned when `state` was saved (virtual functions), and does nothing else:
   * in a load it comes before IOMMUs get their state back, `load` comes after it.
   */
  respawn?(state: unknown): void;
}

/** A window of addresses a function decodes. */
export interface PciWindow {
  /** Size in bytes, a power of two. */
  readonly bytes: number;
  /** I/O ports; else memory. */
  readonly io: boolean;
  /** Where it is decoded now (bytes); -1: nowhere. */
  address(): number;
}

/** What one access of the guest may cost, as a function with a lot to do sees it. */
export interface AccessWork {
  /** The access under way has cost what one may: the function goes on `later`. */
  readonly spent: boolean;
  /** Something beside requests (those are counted) cost so much: a unit is about half a page copied. */
  spend(units: number): void;
  /** Runs an action soon, outside of any other access and with the whole budget; not when the function is taken out before. */
  later(action: () => void): void;
}

/**
 * Function → bus: requests with address type and PASID. Results of the calls are fields, valid until the next call. Each
 * function has its own.
 */
export interface Upstream {
  /** Requester id as software sees it now (bus number of the moment, devfn). */
  readonly rid: number;
  /** What the access under way may still cost; absent: there is no limit. */
  readonly work?: AccessWork;
  /** The ways up under its further requester ids, in the order in which it was plugged in with them; empty for most. */
  readonly aliases: readonly Upstream[];
  /**
   * A memory read of `count` bytes into `into` from `start` on. Split at page boundaries; stops at the first failure.
   * @param pasid NO_PASID or 0 … 2^20-1. @param access ACCESS bits: READ, with EXEC and PRIV as the PASID prefix has them.
   * @param at AT value. @returns a DMA value.
   */
  read(
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    at: number,
    into: Uint8Array,
    start: number,
    count: number,
  ): number;
  /** A memory write; see `read`. */
  write(
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    at: number,
    from: Uint8Array,
    start: number,
    count: number,
  ): number;
  /** Bytes the last read or write moved before it failed. */
  readonly done: number;
  /** Names the stalled access when the answer was STALLED. */
  readonly stallToken: number;
  /** A message-signalled interrupt: a 4-byte posted write without PASID. @returns a DMA value. */
  message(lo: number, hi: number, data: number): number;
  /** Level of INTA … INTD (1 … 4). */
  intx(pin: number, asserted: boolean): void;
  /** A translation request for one address. @returns an ATS value. */
  translationRequest(pasid: number, lo: number, hi: number, access: number): number;
  /** Translated address of the last translation request, low word. */
  readonly atsLo: number;
  /** Translated address, high word. */
  readonly atsHi: number;
  /** log2 bytes of the range the completion covers. */
  readonly atsShift: number;
  /** ACCESS bits granted; 0: nothing is mapped there. */
  readonly atsPerm: number;
  /** U bit: this range takes untranslated requests only. */
  readonly atsUntranslated: boolean;
  /** N bit: no snoop. */
  readonly atsNoSnoop: boolean;
  /** @param itags bit i: ITag i. @param count completions to expect in all, 1 … 8. */
  invalidateCompletion(itags: number, count: number): void;
  /**
   * A page request message. @param lo,hi address of the page. @param access ACCESS bits wanted. @param group PRG index,
   * 0 to 511. @param last the last request of its group.
   */
  pageRequest(pasid: number, lo: number, hi: number, access: number, group: number, last: boolean): void;
  /**
   * Brings a virtual function to life at requester id `rid + offset` (SR-IOV).
   * @returns takes it away; null when something is there already, or the host cannot take it.
   */
  spawn(offset: number, fn: PciFunction): (() => void) | null;
}
