import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import type { KernelFile } from '../../host/ioctl/caller.ts';
import { iommufdIoctl, type TestIoctl } from '../../host/ioctl/iommufd-ioctl.ts';
import { vfioDeviceIoctl } from '../../host/ioctl/vfio-device-ioctl.ts';
import { IommufdFile } from '../../host/iommufd/file.ts';
import { MAP_SHARED } from '../../host/iommufd/mmap.ts';
import { VfioFile } from '../../host/iommufd/vfio-device.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { makeBackend, type ServedKernel } from './backend.ts';
import { ClientLink, InstalledFiles, SocketCaller } from './client.ts';
import { FRAME, frame, MAX_PREFETCH, returned } from './frames.ts';
import { ClientFrames, ProcessMemory } from './frames-of-memory.ts';
import type { KernelThreadData, ToKernel } from './messages.ts';

/** What a connection is. */
type Connection =
  | {
      readonly kind: 'iommufd';
      readonly file: IommufdFile;
      readonly test: TestIoctl | null;
      readonly descriptors: Map<number, KernelFile>;
      /** Its pointers are addresses of a process of this machine, which may be read without asking. */
      readonly direct: boolean;
    }
  | {
      readonly kind: 'vfio';
      readonly file: VfioFile;
      readonly descriptors: Map<number, KernelFile>;
      readonly direct: boolean;
    }
  | { readonly kind: 'extra'; readonly file: KernelFile };

/** {pid, request, argument} of an IOCTL frame. */
const IOCTL_BYTES = 16;
const VFIO_PATH = /^\/dev\/vfio\/devices\/(.+)$/;

/** Runs the emulated kernel for all clients, one request at a time. */
class KernelThread {
  readonly #link: ClientLink;
  readonly #frames: ClientFrames;
  readonly #backend: ServedKernel;
  readonly #files = new InstalledFiles();
  readonly #connections = new Map<number, Connection>();

  constructor(port: MessagePort, data: KernelThreadData) {
    this.#link = new ClientLink(port, data.replies, data.signal, data.patience);
    this.#frames = new ClientFrames(this.#link);
    this.#backend = makeBackend(data.backend, data.release);
    this.#backend.kernel.physical = this.#frames;
  }

  handle(m: ToKernel): void {
    switch (m.what) {
      case 'hello': {
        const file = this.#files.claim(m.token);
        if (file === null) this.#link.post({ what: 'drop', connection: m.connection });
        else this.#connections.set(m.connection, { kind: 'extra', file });
        return;
      }
      case 'closed':
        this.#closed(m.connection);
        return;
      case 'request':
        try {
          this.#request(m.connection, m.type, Buffer.from(m.payload));
        } catch (e) {
          // A bug of ours: this client loses its connection, the others go on.
          process.stderr.write(`viommu iommufd: internal error: ${e instanceof Error ? e.stack : String(e)}\n`);
          this.#link.post({ what: 'drop', connection: m.connection });
        }
    }
  }

  #request(connection: number, type: number, payload: Buffer): void {
    this.#link.connection = connection;
    this.#frames.maps.clear();
    const known = this.#connections.get(connection);
    if (type === FRAME.MUNMAP && payload.length === 4) {
      this.#closed(connection);
      this.#link.post({ what: 'send', connection, bytes: returned(0) });
      return;
    }
    const answer =
      known?.kind === 'extra'
        ? this.#extra(known.file, type, payload)
        : type === FRAME.OPEN
          ? this.#open(connection, known, payload)
          : this.#main(known ?? this.#openIommufd(connection), type, payload);
    if (answer !== null) this.#link.post({ what: 'send', connection, bytes: answer });
    else this.#link.post({ what: 'drop', connection });
  }

  #openIommufd(connection: number, direct = false): Connection {
    const file = new IommufdFile(this.#backend.kernel, new ProcessMemory(this.#frames, 0));
    const c: Connection = { kind: 'iommufd', file, test: this.#backend.test(file), descriptors: new Map(), direct };
    this.#connections.set(connection, c);
    return c;
  }

  /** The token of a main connection is its number. */
  #open(connection: number, known: Connection | undefined, payload: Buffer): Buffer | null {
    if (known !== undefined) return null;
    const [path = '', option] = payload.toString('latin1').split('\0');
    const direct = option === 'direct';
    const token = Buffer.alloc(4);
    token.writeUInt32LE(connection, 0);
    if (path === '/dev/iommu') {
      this.#openIommufd(connection, direct);
      return returned(0, token);
    }
    const name = VFIO_PATH.exec(path)?.[1];
    const dev = this.#backend.vfio.find((d) => d.name === name);
    if (dev === undefined) return returned(-E.NOENT);
    const file = new VfioFile(dev);
    this.#connections.set(connection, { kind: 'vfio', file, descriptors: new Map(), direct });
    return returned(0, token);
  }

  #main(c: Connection, type: number, payload: Buffer): Buffer | null {
    if (c.kind === 'extra') return null;
    if (type === FRAME.IOCTL && payload.length >= IOCTL_BYTES && payload.length <= IOCTL_BYTES + MAX_PREFETCH)
      return this.#ioctl(c, payload);
    if (c.kind !== 'iommufd') return null;
    const { mmaps } = c.file.context;
    if (type === FRAME.MMAP && (payload.length === 16 || payload.length === 24)) {
      const length = payload.readBigUInt64LE(0);
      const offset = payload.readBigUInt64LE(8);
      const prot = payload.length === 24 ? payload.readUInt32LE(16) : 0;
      const shared = payload.length === 24 ? (payload.readUInt32LE(20) & MAP_SHARED) !== 0 : true;
      const r = mmaps.map(offset, Number(length), shared, prot);
      if (r !== 0) return returned(r);
      const word = Buffer.alloc(4);
      this.#backend.kernel.memory.space.readBytes(mmaps.mapped, word);
      return returned(0, word);
    }
    if (type === FRAME.MUNMAP && payload.length === 8) {
      mmaps.unmap(payload.readBigUInt64LE(0));
      return returned(0);
    }
    return null;
  }

  #ioctl(c: Exclude<Connection, { kind: 'extra' }>, payload: Buffer): Buffer {
    this.#link.pid = payload.readUInt32LE(0);
    const request = payload.readUInt32LE(4);
    const arg = payload.readBigUInt64LE(8);
    const fetched = payload.subarray(IOCTL_BYTES);
    const caller = new SocketCaller(this.#link, this.#frames, this.#files, c.descriptors, arg, fetched, c.direct);
    if (c.kind === 'iommufd') return returned(iommufdIoctl(c.file, request, arg, caller, c.test));
    return returned(vfioDeviceIoctl(c.file, request, arg, caller, (fd) => this.#findIommufd(fd)));
  }

  #findIommufd(fd: number): IommufdFile | number {
    const payload = Buffer.alloc(4);
    payload.writeInt32LE(fd, 0);
    const r = this.#link.ask(frame(FRAME.WHICH, payload));
    if (r === null) return -E.BADF;
    if (r.readInt32LE(0) !== 0 || r.length < 8) return r.readInt32LE(0) === -E.BADF ? -E.BADF : -E.BADFD;
    const there = this.#connections.get(r.readUInt32LE(4));
    return there?.kind === 'iommufd' ? there.file : -E.BADFD;
  }

  #extra(file: KernelFile, type: number, payload: Buffer): Buffer | null {
    switch (type) {
      case FRAME.READ: {
        if (payload.length !== 4) return null;
        const into = new Uint8Array(Math.min(payload.readUInt32LE(0), MAX_READ));
        const r = file.read?.(into) ?? -E.INVAL;
        return returned(r, into.subarray(0, Math.max(r, 0)));
      }
      case FRAME.WRITE:
        return returned(file.write?.(payload) ?? -E.INVAL);
      case FRAME.POLL:
        return returned(file.poll?.() ?? 0);
      default:
        return null;
    }
  }

  #close(file: KernelFile): void {
    file.close();
    for (const c of this.#connections.values()) {
      if (c.kind === 'extra') continue;
      for (const [fd, f] of c.descriptors) if (f === file) c.descriptors.delete(fd);
    }
  }

  #closed(connection: number): void {
    this.#link.forget(connection);
    const c = this.#connections.get(connection);
    if (c === undefined) return;
    this.#connections.delete(connection);
    if (c.kind === 'extra') {
      this.#close(c.file);
      return;
    }
    if (c.kind === 'iommufd') c.file.context.mmaps.unmapAll();
    c.file.close();
    if (this.#connections.size === 0) this.#frames.reset();
  }
}

/** A read(2) is answered with at most this much: no queue holds more. */
const MAX_READ = 1 << 20;

if (parentPort !== null) {
  const thread = new KernelThread(parentPort, workerData as KernelThreadData);
  parentPort.on('message', (m: ToKernel) => thread.handle(m));
}
