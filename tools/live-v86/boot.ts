import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Bridge } from '../../bus/bridge.ts';
import { RamDisk } from '../../devices/endpoints/nvme/disk.ts';
import { NvmeFunction } from '../../devices/endpoints/nvme/function.ts';
import type { VtdProperties } from '../../devices/vtd/properties.ts';
import { V86_VERSION } from '../../src/adapters/v86/internals.ts';
import { plugIntoV86, V86_LAYOUT, type V86Machine } from '../../src/adapters/v86/machine.ts';
import { ViommuError } from '../../src/core/errors.ts';
import type { MachineState } from '../../src/machine/snapshot.ts';
import type { Tell } from '../../src/ports/tell.ts';
import type { TraceRecorder } from '../../src/trace/index.ts';
import { Console, type Guest } from '../live/console.ts';
import { initramfs } from '../live/initramfs.ts';
import type { LiveRun } from '../live/session.ts';

export type Kernel = '6.1' | '7.2' | '7.2-unpatched';

export interface V86BootOptions {
  readonly kernel?: Kernel;
  readonly props: VtdProperties;
  /** Added to the kernel command line. */
  readonly append?: string;
  readonly behindRootPort?: boolean;
  readonly ignoreInvalidations?: boolean;
  readonly tell: Tell;
  readonly record?: TraceRecorder | null;
  /** Further files of the guest: path → contents, executable. */
  readonly extra?: Readonly<Record<string, Uint8Array>>;
  /** No vIOMMU at all: what the same guest costs without. */
  readonly bare?: boolean;
  /** Goes on where another run was instead of booting. */
  readonly from?: Snapshot;
}

/** Everything of a run at one moment: the emulator's state with guest memory, ours, and the disk. */
export interface Snapshot {
  readonly emulator: ArrayBuffer;
  readonly machine: MachineState;
  readonly disk: Uint8Array;
}

/** v86's own interface, as far as a boot needs it. */
interface V86Instance {
  add_listener(event: string, listener: (value: number) => void): void;
  serial0_send(text: string): void;
  run(): Promise<void>;
  stop(): Promise<void>;
  destroy(): Promise<void>;
  save_state(): Promise<ArrayBuffer>;
  restore_state(state: ArrayBuffer): Promise<void>;
  get_instruction_counter(): number;
}

export interface V86Run extends LiveRun {
  readonly emulator: V86Instance;
  readonly plugged: V86Machine;
  readonly rid: number;
  /** Stops, saves, goes on. */
  snapshot(): Promise<Snapshot>;
}

/** Guest RAM, bytes. */
export const MEMORY = 128 << 20;

const DISK = 16 << 20;

/** The package's folder and version. @throws ViommuError `E_MISSING` when it is not installed. */
function v86Package(): { readonly dir: string; readonly version: string } {
  try {
    const dir = dirname(createRequire(import.meta.url).resolve('v86/package.json'));
    return {
      dir,
      version: (JSON.parse(readFileSync(join(dir, 'package.json'), 'utf8')) as { version: string }).version,
    };
  } catch {
    throw new ViommuError('E_MISSING', 'caller', `v86 is not installed: npm install --no-save v86@${V86_VERSION}`);
  }
}

export function liveFolder(): string {
  return resolve(process.env.VIOMMU_LIVE_V86 ?? '.cache/live-v86');
}

/** @throws ViommuError `E_MISSING` names the file and the command that builds it. */
function built(name: string, how: string): Uint8Array {
  const path = join(liveFolder(), name);
  if (!existsSync(path))
    throw new ViommuError('E_MISSING', 'caller', `${path} is missing; run: npm run live:build${how}`);
  return readFileSync(path);
}

function buffer(bytes: Uint8Array): { buffer: ArrayBuffer } {
  return { buffer: Uint8Array.from(bytes).buffer };
}

/** Boots a guest in v86 with a vVT-d and an NVMe disk of ours. */
export async function bootV86(o: V86BootOptions): Promise<V86Run> {
  const kernel = o.kernel ?? '6.1';
  const { dir, version } = v86Package();
  const { V86 } = (await import(pathToFileURL(join(dir, 'build/libv86.mjs')).href)) as {
    V86: new (options: object) => V86Instance;
  };
  const bdf = o.behindRootPort ? '0000:01:00.0' : '0000:00:10.0';
  const initrd = initramfs({
    files: join(liveFolder(), 'pkg/busybox-static'),
    modules: [],
    extra: {
      init: readFileSync(new URL('../../../tools/live/guest/init', import.meta.url)),
      bdf: Buffer.from(`${bdf}\n`),
      ...o.extra,
    },
  });
  const emulator = new V86({
    wasm_path: join(dir, 'build/v86.wasm'),
    bios: buffer(built('seabios.bin', '')),
    vga_bios: buffer(built('vgabios.bin', '')),
    bzimage: buffer(built(`bzImage-${kernel}`, ` -- ${kernel}`)),
    initrd: buffer(initrd),
    cmdline: `console=ttyS0 8250.nr_uarts=1 pty.legacy_count=0 quiet loglevel=6 intel_iommu=on ${o.append ?? ''}`,
    acpi: true,
    memory_size: MEMORY,
    vga_memory_size: 2 << 20,
    autostart: false,
    disable_speaker: true,
    disable_keyboard: true,
    disable_mouse: true,
    net_device: { type: 'none' },
    log_level: 0,
  });
  await new Promise<void>((ready) => emulator.add_listener('emulator-loaded', () => ready()));
  const errors: unknown[] = [];
  const plugged = plugIntoV86(emulator, {
    version,
    props: o.props,
    behindRootPort: o.behindRootPort ?? false,
    ignoreInvalidations: o.ignoreInvalidations ?? false,
    tell: o.tell,
    record: o.record ?? null,
    report: (e) => errors.push(e),
  });
  const disk = new RamDisk(o.from?.disk.slice() ?? DISK);
  const nvme = new NvmeFunction({
    disk,
    integrated: !o.behindRootPort,
    // Linux enables page requests beside PASIDs only where responses carry the PASID.
    pri: { capacity: 32, responseWithPasid: true },
  });
  const { machine } = plugged;
  if (o.behindRootPort) {
    machine.plug(new Bridge({ kind: 'root' }), V86_LAYOUT.ROOT_PORT);
    const port = machine.complex.byRid(V86_LAYOUT.ROOT_PORT)!;
    machine.plug(nvme.fn, 0, port.behind!, { state: nvme });
  } else machine.plug(nvme.fn, V86_LAYOUT.ENDPOINT, machine.root.bus, { state: nvme });
  plugged.pci.claimBars();
  const console = new Console();
  let text = '';
  emulator.add_listener('serial0-output-byte', (byte) => {
    text += String.fromCharCode(byte);
    if (byte === 10) {
      console.feed(text);
      text = '';
    }
  });
  const guest: Guest = { console, send: (command) => emulator.serial0_send(`${command}\n`) };
  if (o.from !== undefined) {
    await emulator.restore_state(o.from.emulator);
    plugged.restored(o.from.machine);
  }
  await emulator.run();
  return {
    emulator,
    plugged,
    rid: o.behindRootPort ? 0x100 : V86_LAYOUT.ENDPOINT,
    machine,
    unit: plugged.unit,
    nvme,
    guest,
    errors,
    async snapshot() {
      await emulator.stop();
      const state = JSON.parse(JSON.stringify(machine.save())) as MachineState;
      const snapshot = { emulator: await emulator.save_state(), machine: state, disk: disk.bytes.slice() };
      await emulator.run();
      return snapshot;
    },
    outside: (action) => plugged.outside(action),
    async finished() {
      await console.expect(/^@@ off/);
      return `${plugged.clflush()} CLFLUSH replaced, ${emulator.get_instruction_counter() >>> 0} instructions`;
    },
    close: async () => {
      console.end('closed');
      await emulator.destroy();
    },
  };
}
