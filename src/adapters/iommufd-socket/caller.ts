import type { Caller, CountedMemory, EventSignal, KernelFile } from '../../host/ioctl/caller.ts';
import type { PageFile } from '../../ports/user-memory.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { ClientMemory } from './client-memory.ts';
import { OpenFile } from './open-files.ts';
import { ClientFile, ProcessMemory } from './process-memory.ts';
import type { Request } from './request.ts';

/** The process inside an ioctl, as far as its client has told. */
export class SocketCaller implements Caller {
  readonly memory: CountedMemory;
  readonly privileged: boolean;
  readonly #memory: ClientMemory;
  readonly #request: Request;

  constructor(memory: ClientMemory, request: Request) {
    this.#memory = memory;
    this.#request = request;
    this.privileged = request.privileged;
    this.memory = new ProcessMemory(memory, request.session, request.pid);
  }

  read(address: bigint, into: Uint8Array): boolean {
    return this.#request.readProcess(this.#request.pid, address, into);
  }
  write(address: bigint, from: Uint8Array): boolean {
    return this.#request.writeProcess(this.#request.pid, address, from);
  }
  expect(address: bigint, length: number): void {
    this.#request.expect(address, length);
  }
  ready(address: bigint, length: number, write: boolean): boolean {
    return this.#request.ready(address, length, write);
  }

  install(file: KernelFile): number {
    const spare = this.#request.takeSpare();
    if (spare === null) return -E.MFILE;
    if (spare.fd < 0) return spare.fd;
    spare.open(new OpenFile(file));
    return spare.fd;
  }

  installed(fd: number): KernelFile | number {
    const there = this.#request.answers.files.get(fd);
    if (there === undefined) {
      this.#request.need({ what: 'which', fd });
      return -E.BADF;
    }
    return typeof there === 'number' ? there : there.file;
  }

  eventFd(fd: number): EventSignal | number {
    const request = this.#request;
    const handle = request.answers.eventFds.get(fd);
    if (handle === undefined) {
      request.need({ what: 'eventfd', fd });
      return -E.BADF;
    }
    if (handle < 0) return handle;
    // A process without an attendant can be told nothing: what it asks for works, and no interrupt ever comes.
    const attendant = request.session.attendants.get(request.pid);
    // Until the request is over the client closes its copy with the answer, if nobody has it then.
    return attendant?.eventFd(handle, () => request.over) ?? { signal() {}, release() {} };
  }

  get incomplete(): boolean {
    return this.#request.missing !== null;
  }

  pageFile(fd: number): PageFile | null {
    const mine = this.installed(fd);
    if (typeof mine !== 'number') return 'pin' in mine ? (mine as KernelFile & PageFile) : null;
    if (this.#request.missing !== null || mine === -E.BADF) return null;
    const facts = this.#request.answers.facts.get(fd);
    if (facts === undefined) {
      this.#request.need({ what: 'file', fd });
      return null;
    }
    return typeof facts === 'number'
      ? null
      : new ClientFile(this.#memory, this.#request.session, this.#request.pid, facts);
  }
}
