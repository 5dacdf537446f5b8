import { createServer, type Server, type Socket } from 'node:net';
import { DeviceNodes } from '../../host/ioctl/device-nodes.ts';
import type { GroupDevice } from '../../host/ioctl/vfio-group-node.ts';
import type { PciFunction } from '../../ports/pci.ts';
import type { Tell } from '../../ports/tell.ts';
import { Afterwards } from './afterwards.ts';
import { makeBackend, type Release } from './backend.ts';
import { type ClaimedPath, listenOn } from './claim-path.ts';
import { Connection, type Together } from './connection.ts';
import { KernelServer } from './kernel-server.ts';
import { DEFAULT_LIMITS, type ServerLimits, type ServerUsage } from './limits.ts';
import { ServedSysfs } from './sysfs.ts';

/** What a server serves, and where. */
export interface IommufdServerOptions {
  /** Path of the Unix socket, at most 107 bytes. A stale socket of this user is replaced, anything else is refused. */
  readonly path: string;
  /** One of BACKENDS. */
  readonly backend: string;
  /** Whose test driver the mock is (default 7.2). */
  readonly release?: Release;
  /**
   * Functions that do what they do, DMA included, on a bus behind the IOMMU: at most MOST_FUNCTIONS. The server then reaches
   * into the memory of those clients that have shown it to be theirs. Default: four functions that do nothing.
   */
  readonly functions?: readonly PciFunction[];
  /** The hardware loses invalidations: what must fail then shows that it depends on them. Only with `functions`. */
  readonly ignoreInvalidations?: boolean;
  /** Hears every verb of the clients with its result. */
  readonly tell?: Tell;
  /** Milliseconds a client may take to answer while its ioctl runs (default 10,000). Others do not wait for it. */
  readonly patience?: number;
  /** What clients may take of the server; see `ServerLimits`. */
  readonly limits?: Partial<ServerLimits>;
}

/**
 * Serves /dev/iommu and VFIO's nodes over a Unix socket. A client that breaks the protocol, goes away or falls silent loses its
 * connection, and with the last one everything it made; the others do not notice.
 */
export class IommufdServer {
  /** What clients may take of this server. */
  readonly limits: ServerLimits;
  /** What its connections share. */
  readonly #together: Together;
  readonly #server: Server;
  readonly #kernel: KernelServer;
  readonly #path: string;
  readonly #sysfs: ServedSysfs;
  readonly #devices: readonly GroupDevice[];
  readonly #connections = new Set<Connection>();
  /** Connections with bytes nobody has looked at. */
  readonly #readable = new Set<Connection>();
  #scheduled = false;
  #claimed: ClaimedPath | null = null;
  /**
   * Something broke that is no client's fault: what. It is a bug; the client whose request it was has lost its connection. What
   * a function put off belongs to no request.
   */
  onFailure: ((error: Error) => void) | null = null;

  /** @throws ViommuError `E_USAGE` an unknown backend. */
  constructor(options: IommufdServerOptions) {
    this.#path = options.path;
    const patience = options.patience ?? DEFAULT_LIMITS.patience;
    this.limits = { ...DEFAULT_LIMITS, patience, ...options.limits };
    this.#together = {
      limits: this.limits,
      pendingBytes: 0,
      readable: (c) => this.#hasBytes(c),
      gone: (c) => this.#gone(c),
    };
    const afterwards = new Afterwards((e) => this.#failed(e));
    const { backend, release, functions, ignoreInvalidations } = options;
    const served = makeBackend(backend, release, functions, ignoreInvalidations, afterwards);
    served.kernel.tell = options.tell ?? null;
    const { kernel, devices, reach } = served;
    const nodes = new DeviceNodes({ kernel, devices, test: (file) => served.test(file) });
    const sysfs = new ServedSysfs(devices, nodes);
    this.#sysfs = sysfs;
    this.#devices = devices;
    this.#kernel = new KernelServer({ kernel, nodes, limits: this.limits, reach, sysfs, afterwards });
    this.#server = createServer({ noDelay: true }, (socket) => this.#accept(socket));
  }

  /**
   * Starts listening.
   * @throws ViommuError `EINVAL` the path is too long; `EEXIST` something is there that is not a stale socket of this user;
   *   else the system's error.
   */
  async listen(): Promise<void> {
    this.#claimed = await listenOn(this.#server, this.#path);
  }

  /** Ends every connection, and takes the socket away if it is still this server's. */
  async close(): Promise<void> {
    this.#claimed?.release();
    this.#claimed = null;
    for (const c of [...this.#connections]) c.destroy();
    this.#sysfs.remove();
    if (this.#server.listening) await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  /**
   * Asks the user of a device for it, as a host does that takes the function out (the REQ interrupt).
   * @param name of its node: `vfio0`. @returns false: nobody listens, or there is no such device.
   */
  askBack(name: string): boolean {
    return this.#devices.find((d) => d.name === name)?.function.request?.() ?? false;
  }

  /** Connections there are now. */
  get clients(): number {
    return this.#connections.size;
  }

  /** Bytes of frames that are not complete yet, of all connections together. */
  get pendingBytes(): number {
    return this.#together.pendingBytes;
  }

  /** What clients take of the server now. */
  get usage(): ServerUsage {
    return this.#kernel.usage;
  }

  #accept(socket: Socket): void {
    if (this.#connections.size >= this.limits.connections) {
      socket.destroy();
      return;
    }
    this.#connections.add(new Connection(socket, this.#together));
  }

  #gone(c: Connection): void {
    this.#connections.delete(c);
    this.#readable.delete(c);
    this.#guard(() => this.#kernel.gone(c));
  }

  #guard(act: () => void): boolean {
    try {
      act();
      return true;
    } catch (e) {
      this.#failed(e);
      return false;
    }
  }

  #failed(e: unknown): void {
    this.onFailure?.(e instanceof Error ? e : new Error(String(e)));
  }

  /**
   * Frames are looked at when everything the system had to tell has been told: a close that happened before a request was sent
   * (a child that exited, another descriptor) is done before that request.
   */
  #hasBytes(c: Connection): void {
    this.#readable.add(c);
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => this.#serve());
  }

  /** One frame of each connection in turn: nobody gets more for sending more. */
  #serve(): void {
    this.#scheduled = false;
    for (const c of [...this.#readable]) {
      const f = c.next();
      if (f === null) {
        this.#readable.delete(c);
        continue;
      }
      if (!this.#guard(() => this.#kernel.frame(c, f))) c.destroy();
      if (!c.holdsBytes) this.#readable.delete(c);
    }
    for (const c of this.#readable) this.#hasBytes(c);
  }
}
