import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { IommufdServer } from '../../../src/adapters/iommufd-socket/server.ts';
import { IoctlProgram } from '../ioctl-program.ts';
import {
  ARGUMENTS,
  BUFFER,
  BUFFER_BYTES,
  beginning,
  encodeIoctl,
  ioctlStep,
  withoutDescriptors,
} from '../ioctl-steps.ts';
import { FakeProgram, Wire } from '../socket-client.ts';
import { Finding, type FuzzTarget, type Step } from '../target.ts';

/** Structures of /dev/iommu. */
export const uapiTarget: FuzzTarget = {
  name: 'uapi',
  summary:
    'structures of /dev/iommu that are nearly right, on every kernel: no exception, and nothing is left at the end',
  length: 150,
  generate(rnd, length) {
    const steps = Array.from(
      { length },
      (): Step => (rnd.chance(8) ? ['attach', rnd.below(4), rnd.below(14)] : ioctlStep(rnd)),
    );
    const config = { backend: rnd.pick(['mock', 'smmuv3', 'vtd']), devices: rnd.below(2) };
    return { config, steps: [...beginning(config.backend, config.devices * 4), ...steps] };
  },
  run(input, plant) {
    const program = new IoctlProgram(String(input.config.backend), plant, input.config.devices === 1);
    for (const step of input.steps) {
      if (step[0] === 'attach') program.attach(Number(step[1]), Number(step[2]));
      else {
        const { request, bytes } = encodeIoctl(step);
        const r = program.ioctl(request, bytes);
        if (!Number.isInteger(r) || r < -4095) throw new Finding(`an ioctl answers no errno\n${step[0]}: ${r}`);
      }
    }
    program.close();
    return {};
  },
};

let count = 0;

async function served<T>(use: (path: string, server: IommufdServer) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'viommu-fuzz-'));
  const path = join(folder, `s${count++}`);
  const server = new IommufdServer({ path, backend: 'mock', patience: 2000 });
  let broken: Error | null = null;
  server.onFailure = (e) => {
    broken = e;
  };
  await server.listen();
  try {
    const result = await use(path, server);
    if (broken !== null) throw broken as Error;
    return result;
  } finally {
    await server.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Sends bytes that are no, or nearly no frames, on a connection of their own. */
async function garbage(path: string, step: Step): Promise<void> {
  const wire = await Wire.dial(path);
  const bytes = Uint8Array.from(step.slice(1).map(Number));
  wire.socket.write(bytes);
  await new Promise((resolve) => setImmediate(resolve));
  wire.socket.destroy();
}

/** The server and a program in the same process, by the same ioctls. */
export const socketsTarget: FuzzTarget = {
  name: 'sockets',
  summary:
    'a client of the server gets what a program in the process gets, beside others that send garbage and break off',
  length: 60,
  generate(rnd, length) {
    const steps = Array.from({ length }, (): Step => {
      if (!rnd.chance(15)) return ioctlStep(rnd);
      const bytes = Array.from({ length: 1 + rnd.below(60) }, () => rnd.below(256));
      // A length that may be right, and a type that there is.
      if (rnd.chance(70)) bytes.splice(0, 5, bytes.length - (rnd.chance(70) ? 4 : 1), 0, 0, 0, 1 + rnd.below(24));
      return ['garbage', ...bytes];
    });
    return { config: { prefetch: rnd.pick([0, 96]) }, steps: [...beginning('mock', 0), ...steps] };
  },
  async run(input, plant) {
    const here = new IoctlProgram('mock', plant, false);
    await served(async (path, server) => {
      const there = await FakeProgram.open(path);
      there.mappings.push({ start: BigInt(BUFFER), end: BigInt(BUFFER + BUFFER_BYTES), flags: 3 });
      there.prefetch = Number(input.config.prefetch);
      for (const step of input.steps) {
        if (step[0] === 'garbage') {
          await garbage(path, step);
          continue;
        }
        const { request, bytes } = encodeIoctl(step);
        const r = here.ioctl(request, bytes);
        there.memory.set(bytes);
        const { result } = await there.ioctl(request, BigInt(ARGUMENTS));
        if (Number.isNaN(result)) throw new Finding('a client that did nothing wrong has lost its connection');
        if (r !== result)
          throw new Finding(`a client of the server is answered otherwise\n${step[0]}: ${r}, ${result}`);
        const [a, b] = [here.bytes, there.memory].map((m) => withoutDescriptors(step, m.subarray(0, 128)).toString());
        if (a !== b) throw new Finding(`a client of the server is answered otherwise\n${step[0]}: ${a}, ${b}`);
      }
      there.wire.socket.destroy();
      for (const w of there.extras) w.socket.destroy();
      for (let i = 0; i < 200 && server.clients > 0; i++) await new Promise((resolve) => setTimeout(resolve, 10));
      const left = [server.clients, server.pendingBytes, server.usage.sessions, server.usage.pinned];
      if (left.some((n) => n > 0)) throw new Finding(`a server that everybody has left keeps something\n${left}`);
    });
    here.close();
    return {};
  },
};
