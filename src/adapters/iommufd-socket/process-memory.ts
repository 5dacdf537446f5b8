import type { CountedMemory } from '../../host/ioctl/caller.ts';
import type { PageFile, PinAccount } from '../../ports/user-memory.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { ClientMemory } from './client-memory.ts';
import type { FileFacts } from './questions.ts';
import type { Session } from './session.ts';

/** The shortest of some lengths. */
function least(first: bigint, ...others: readonly bigint[]): number {
  let shortest = first;
  for (const n of others) if (n < shortest) shortest = n;
  return Number(shortest);
}

/** The address space of a client process. */
export class ProcessMemory implements CountedMemory {
  hpa = 0;
  run = 0;
  failure = 0;
  readonly account: PinAccount;
  readonly #memory: ClientMemory;
  readonly #session: Session;
  readonly #pid: number;

  constructor(memory: ClientMemory, session: Session, pid: number) {
    this.#memory = memory;
    this.#session = session;
    this.#pid = pid;
    this.account = session.account(pid);
  }

  pin(va: bigint, bytes: bigint, write: boolean): boolean {
    this.failure = 0;
    const { request } = this.#memory;
    // Pages of another session's process cannot be looked up: its client is not the one that is asked.
    if (request === null || request.session !== this.#session) return false;
    const maps = request.answers.maps.get(this.#pid);
    if (maps === undefined) return request.need({ what: 'maps', pid: this.#pid });
    const m = maps.at(va);
    if (m === null || !m.readable || (write && !m.writable)) return false;
    const shared = m.shared && m.inode !== 0n;
    const at = shared ? m.offset + (va - m.start) : va;
    const owner = shared ? { file: m.file } : { pid: this.#pid };
    this.hpa = this.#memory.address(this.#session, owner, at, shared ? { pid: this.#pid, va } : {});
    this.run = least(bytes, m.end - va, this.#memory.room(at));
    if (this.hpa < 0 || !this.#memory.pin(this.hpa, this.run)) this.failure = E.NOMEM;
    return this.failure === 0;
  }
  unpin(hpa: number, bytes: number): void {
    this.#memory.unpin(hpa, bytes);
  }
  pins(hpa: number): number {
    return this.#memory.pins(hpa);
  }
}

/** A memfd of a client. */
export class ClientFile implements PageFile {
  hpa = 0;
  run = 0;
  failure = 0;
  readonly kind: 'memfd' | 'other';
  readonly size: bigint;
  readonly #memory: ClientMemory;
  readonly #session: Session;
  readonly #pid: number;
  readonly #facts: FileFacts;

  /** @param pid who holds it. */
  constructor(memory: ClientMemory, session: Session, pid: number, facts: FileFacts) {
    this.#memory = memory;
    this.#session = session;
    this.#pid = pid;
    this.#facts = facts;
    this.kind = facts.memfd ? 'memfd' : 'other';
    this.size = facts.bytes;
  }

  pin(offset: bigint, bytes: bigint): boolean {
    this.failure = 0;
    const end = (this.size + 4095n) & -4096n;
    if (this.kind !== 'memfd' || offset >= end) return false;
    const { identity, handle } = this.#facts;
    this.hpa = this.#memory.address(this.#session, { file: identity }, offset, { handle, holder: this.#pid });
    this.run = least(bytes, end - offset, this.#memory.room(offset));
    if (this.hpa < 0 || !this.#memory.pin(this.hpa, this.run)) this.failure = E.NOMEM;
    return this.failure === 0;
  }
  unpin(hpa: number, bytes: number): void {
    this.#memory.unpin(hpa, bytes);
  }
}
