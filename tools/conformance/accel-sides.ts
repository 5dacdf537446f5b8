import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DmaEngine } from '../../devices/endpoints/dma-engine.ts';
import { IommufdServer } from '../../src/adapters/iommufd-socket/server.ts';
import { parseServerOptions } from '../../src/adapters/qtest/options.ts';
import { QtestSession } from '../../src/adapters/qtest/session.ts';
import { ViommuError } from '../../src/core/errors.ts';
import { createQemuMachine } from '../../src/machine/qemu-machine.ts';
import { ACCESS, AT, NO_PASID } from '../../src/ports/dma.ts';
import type { Upstream } from '../../src/ports/pci.ts';
import { liveFiles } from '../live/environment.ts';
import { preloadLibrary } from '../live/vfio-machine.ts';
import { HostOperations } from './accel-observed.ts';
import type { AccelKind } from './accel-script.ts';

/** A machine with a vIOMMU over an emulated host: QEMU's or ours. */
export interface AccelSide {
  readonly operations: HostOperations;
  /** @returns the replies. */
  run(requests: readonly string[]): Promise<string[]>;
  /** What the function reads at an address: the outcome, and the word. */
  probe(address: number): string;
  close(): Promise<void>;
}

function read(up: Upstream, address: number): string {
  const word = new Uint8Array(4);
  const outcome = up.read(
    NO_PASID,
    address | 0,
    Math.floor(address / 2 ** 32),
    ACCESS.READ,
    AT.UNTRANSLATED,
    word,
    0,
    4,
  );
  return outcome === 0 ? Buffer.from(word).readUInt32LE(0).toString(16) : `refused ${outcome}`;
}

/** Our machine. */
export function ourSide(kind: AccelKind): AccelSide {
  const operations = new HostOperations();
  const { machine } = parseServerOptions(['-qtest', 'unix:/none', ...kind.machine, ...kind.ours]);
  const made = createQemuMachine(machine, { nic: false, vga: false, tell: operations.tell });
  const session = new QtestSession(made);
  const { complex } = made.board!;
  return {
    operations,
    run: (requests) => {
      operations.listen();
      return Promise.resolve(requests.map((r) => session.execute(r)));
    },
    probe: (address) => {
      operations.listen();
      return read(complex.link(complex.byRid(8)!)!, address);
    },
    close: () => Promise.resolve(),
  };
}

/** QEMU on our /dev/iommu. */
export async function theirSide(kind: AccelKind): Promise<AccelSide> {
  const arm = kind.name === 'smmuv3';
  const files = liveFiles(arm ? 'arm64' : 'amd64');
  const dir = mkdtempSync(join(tmpdir(), 'viommu-accel-'));
  const at = (name: string) => join(dir, name);
  const operations = new HostOperations();
  const engine = new DmaEngine();
  const server = new IommufdServer({
    path: at('iommu.sock'),
    backend: arm ? 'smmuv3' : 'vtd',
    functions: [engine.fn],
    tell: operations.tell,
  });
  await server.listen();
  writeFileSync(at('firmware'), new Uint8Array(65_536));
  const mark = (name: string, address: string) => {
    writeFileSync(at(name), '1');
    return ['-device', `loader,file=${at(name)},addr=${address},force-raw=on`];
  };
  const [on, off] = arm
    ? [mark('viommu-kvm-on', '0x41000000'), mark('viommu-kvm-off', '0x41001000')]
    : ([[], []] as const);
  const args = [
    ...['-L', files.share, '-L', files.bios, '-accel', 'qtest', '-display', 'none', '-nodefaults', '-nic', 'none'],
    ...['-qtest', `unix:${at('qtest')}`, '-qtest-log', '/dev/null', ...kind.machine],
    ...(arm ? ['-cpu', 'max', '-bios', at('firmware')] : []),
    ...[...on, ...kind.qemu, ...off, '-object', 'iommufd,id=iommufd0'],
    ...['-device', 'vfio-pci,host=0000:01:00.0,iommufd=iommufd0,addr=1'],
  ];
  const libraries = [...(arm ? [preloadLibrary('libaccel-tcg.so')] : []), preloadLibrary()];
  // QEMU runs in place, so it does not find its modules (the qtest accelerator is one) by itself.
  const QEMU_MODULE_DIR = process.env.QEMU_MODULE_DIR ?? join(files.share, '../../lib/x86_64-linux-gnu/qemu');
  const env = { ...process.env, QEMU_MODULE_DIR, IOMMUFD_SOCK: at('iommu.sock'), LD_PRELOAD: libraries.join(' ') };
  let child: ChildProcess | null = null;
  const close = async () => {
    child?.kill('SIGKILL');
    await server.close();
    rmSync(dir, { recursive: true, force: true });
  };
  const socket = await new Promise<Socket>((resolve, reject) => {
    const listening = createServer((s) => {
      listening.close();
      resolve(s);
    });
    listening.listen(at('qtest'), () => {
      child = spawn(files.qemu, args, { stdio: ['ignore', 'ignore', 'pipe'], env });
      let said = '';
      child.stderr!.setEncoding('utf8').on('data', (text: string) => {
        said += text;
      });
      child.on('close', () => reject(new ViommuError('EIO', 'caller', `QEMU ended: ${said.trim()}`)));
    });
  }).catch(async (e: unknown) => {
    await close();
    throw e;
  });
  const talk = new Conversation(socket);
  await talk.run(['endianness']);
  return {
    operations,
    run: (requests) => {
      operations.listen();
      return talk.run(requests);
    },
    probe: (address) => {
      operations.listen();
      return read(engine.fn.upstream!, address);
    },
    close,
  };
}

/** Requests and replies over a qtest socket. */
class Conversation {
  readonly #socket: Socket;
  #rest = '';
  #replies: string[] = [];
  #wake: () => void = () => {};
  #ended = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => {
      const lines = (this.#rest + text).split('\n');
      this.#rest = lines.pop()!;
      for (const line of lines) if (!line.startsWith('IRQ')) this.#replies.push(line.trim());
      this.#wake();
    });
    for (const end of ['close', 'error'] as const)
      socket.on(end, () => {
        this.#ended = true;
        this.#wake();
      });
  }

  async run(requests: readonly string[]): Promise<string[]> {
    this.#replies = [];
    this.#socket.write(requests.map((r) => `${r}\n`).join(''));
    while (this.#replies.length < requests.length && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (this.#replies.length < requests.length) throw new ViommuError('EIO', 'caller', 'QEMU ended in a script');
    return this.#replies;
  }
}
