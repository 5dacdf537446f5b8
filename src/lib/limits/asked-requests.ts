import type { Quota } from './machine-limits.ts';

/** A page request that is in the guest's queue and has no answer yet. */
export interface AskedRequest {
  readonly rid: number;
  /** As the guest names it. */
  readonly pasid: number;
  readonly group: number;
  /** Host PASID it came with; without upcalls the kernel's cookie. */
  readonly host: number;
  /** Its device and which of the device's streams it came from, where the requester id alone does not tell the host. */
  readonly from?: { readonly devId: number; readonly index: number };
}

/** The page requests that wait for the guest's answer, the oldest first; a group that is asked again is one. */
export class AskedRequests {
  readonly #quota: Quota;
  readonly #list = new Map<string, AskedRequest>();
  /** How many there are of each (requester, PASID). */
  readonly #counts = new Map<string, number>();

  constructor(quota: Quota) {
    this.#quota = quota;
  }

  /** @returns the oldest one when there is no room for one more: it is to be answered now. */
  add(asked: AskedRequest): AskedRequest | null {
    const { rid, pasid, group } = asked;
    this.take(rid, pasid, group);
    const oldest = this.#quota.room() ? undefined : this.#list.values().next().value;
    if (oldest !== undefined) this.take(oldest.rid, oldest.pasid, oldest.group);
    const owner = `${rid} ${pasid}`;
    this.#list.set(`${owner} ${group}`, asked);
    this.#counts.set(owner, (this.#counts.get(owner) ?? 0) + 1);
    this.#quota.used++;
    return oldest ?? null;
  }

  /** One that waits. @returns undefined: nothing waits under that name. */
  find(rid: number, pasid: number, group: number): AskedRequest | undefined {
    return this.#list.get(`${rid} ${pasid} ${group}`);
  }

  /** Takes one out. @returns undefined: nothing waits under that name. */
  take(rid: number, pasid: number, group: number): AskedRequest | undefined {
    const owner = `${rid} ${pasid}`;
    const key = `${owner} ${group}`;
    const asked = this.#list.get(key);
    if (asked === undefined) return undefined;
    this.#list.delete(key);
    this.#quota.used--;
    const left = this.#counts.get(owner)! - 1;
    if (left > 0) this.#counts.set(owner, left);
    else this.#counts.delete(owner);
    return asked;
  }

  /** Takes one out that an answer without a PASID is for. @returns undefined: nothing of the group waits. */
  takeGroup(rid: number, group: number): AskedRequest | undefined {
    for (const a of this.#list.values()) if (a.rid === rid && a.group === group) return this.take(rid, a.pasid, group);
    return undefined;
  }

  /** Takes everything of a requester out; without one, everything. Nobody is answered. */
  forget(rid?: number): void {
    for (const a of [...this.#list.values()])
      if (rid === undefined || a.rid === rid) this.take(a.rid, a.pasid, a.group);
  }

  /** Whether anything of a (requester, PASID) waits. */
  has(rid: number, pasid: number): boolean {
    return this.#counts.has(`${rid} ${pasid}`);
  }

  /** Takes everything of a (requester, PASID) out. */
  takeAll(rid: number, pasid: number): AskedRequest[] {
    if (!this.has(rid, pasid)) return [];
    const all = [...this.#list.values()].filter((a) => a.rid === rid && a.pasid === pasid);
    for (const a of all) this.take(rid, pasid, a.group);
    return all;
  }
}
