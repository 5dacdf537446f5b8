import { awLevels, context, PGTT, smContext, TT } from '../../spec/vtd/tables.ts';

/**
 * What one (requester, PASID) translates with: a legacy context entry or a PASID entry, decoded once. Plain mutable fields,
 * so that lookups reuse an object instead of making one.
 */
export class VtdRegime {
  /** PGTT value; legacy mode knows SECOND and PASS_THROUGH. */
  pgtt: number = PGTT.SECOND;
  /** Which fault codes the walk reports (VT-d §7.1.3). */
  scalable = true;
  /** First-stage table, bytes: guest-physical when nested. */
  firstRoot = 0;
  /** Input bits of the first stage: 48 or 57, and 39 or 30 on a unit with narrow first stages. */
  firstBits = 48;
  /** A write by a privileged request respects read-only pages. */
  wpe = false;
  /** Hardware writes the extended accessed flag. */
  eafe = false;
  /** Second-stage table, bytes. */
  secondRoot = 0;
  /** 3, 4 or 5. */
  secondLevels = 4;
  /** Second-stage accessed and dirty flags are written. */
  ssade = false;

  /** Levels of the first stage: 4 or 5. */
  get firstLevels(): number {
    return this.firstBits === 57 ? 5 : 4;
  }

  // What the tables say beside the walk.
  did = 0;
  /** Privileged requests are allowed. */
  sre = false;
  /** Every access snoops. */
  pgsnp = false;
  /** Fault processing is disabled by one of the entries on the way. */
  fpd = false;
  /** The PASID the entry was found under (RID_PASID for requests without one); 0 in legacy mode. */
  pasid = 0;
}

/** A context entry of either mode, decoded. */
export class VtdContext {
  scalable = false;
  fpd = false;
  /** Device TLB: translation and translated requests are allowed (legacy: TT = 1). */
  dte = false;
  paside = false;
  pre = false;
  /** PASID directory, bytes. */
  directory = 0;
  /** PASIDs the directory can hold: 2^(PDTS + 13). */
  pasids = 0;
  ridPasid = 0;
  ridPriv = false;
  /** Legacy: what to translate with. */
  readonly legacy: VtdRegime = new VtdRegime();

  /** Becomes a valid legacy entry. @param e its words. */
  takeLegacy(e: ArrayLike<number>, fpd: boolean): void {
    const tt = context.tt(e[0]!);
    this.scalable = this.paside = this.pre = this.ridPriv = false;
    this.fpd = fpd;
    this.dte = tt === TT.ALL;
    this.directory = this.pasids = this.ridPasid = 0;
    const r = this.legacy;
    r.scalable = false;
    r.pgtt = tt === TT.PASS_THROUGH ? PGTT.PASS_THROUGH : PGTT.SECOND;
    r.secondRoot = context.ssptptr(e[0]!, e[1]!);
    r.secondLevels = awLevels(context.aw(e[2]!));
    r.did = context.did(e[2]!);
    r.fpd = fpd;
    r.pasid = 0;
  }

  /** Becomes a valid scalable-mode entry; RID_PASID and RID_PRIV stay 0. @param e its words. */
  takeScalable(e: ArrayLike<number>, fpd: boolean): void {
    const w0 = e[0]!;
    this.scalable = true;
    this.fpd = fpd;
    this.dte = smContext.dte(w0);
    this.paside = smContext.paside(w0);
    this.pre = smContext.pre(w0);
    this.directory = smContext.pasiddirptr(w0, e[1]!);
    this.pasids = 2 ** (smContext.pdts(w0) + 13);
    this.ridPasid = 0;
    this.ridPriv = false;
  }
}
