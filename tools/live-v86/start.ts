import { Bridge } from '../../bus/bridge.ts';
import { RamDisk } from '../../devices/endpoints/nvme/disk.ts';
import { NvmeFunction } from '../../devices/endpoints/nvme/function.ts';
import type { VtdProperties } from '../../devices/vtd/properties.ts';
import { plugIntoV86, V86_LAYOUT, type V86Machine } from '../../src/adapters/v86/machine.ts';
import type { MachineState } from '../../src/machine/plugged-machine.ts';
import type { Tell } from '../../src/ports/tell.ts';
import type { TraceRecorder } from '../../src/trace/recorder.ts';
import { Console, type Guest } from '../live/console.ts';
import type { LiveRun } from '../live/session.ts';

/** What a guest is made of, wherever it was read from. */
export interface V86Files {
  /** The package's class, and its version. */
  readonly V86: new (
    options: object,
  ) => V86Instance;
  readonly version: string;
  /** Path or address of v86.wasm. */
  readonly wasm: string;
  readonly bios: Uint8Array;
  readonly vgaBios: Uint8Array;
  readonly bzImage: Uint8Array;
  readonly initrd: Uint8Array;
}

export interface V86StartOptions {
  readonly props: VtdProperties;
  /** Added to the kernel command line. */
  readonly append?: string;
  readonly behindRootPort?: boolean;
  readonly ignoreInvalidations?: boolean;
  readonly tell: Tell | null;
  readonly record?: TraceRecorder | null;
  /** The guest is not told of the unit: what the same guest costs without. */
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
export interface V86Instance {
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

function buffer(bytes: Uint8Array): { buffer: ArrayBuffer } {
  return { buffer: Uint8Array.from(bytes).buffer };
}

/** Where the guest finds the function. */
export function functionName(behindRootPort: boolean | undefined): string {
  return behindRootPort ? '0000:01:00.0' : '0000:00:10.0';
}

/** Starts a guest in v86, in Node or in a browser, with a vVT-d and an NVMe disk of ours. */
export async function startV86(files: V86Files, o: V86StartOptions): Promise<V86Run> {
  const emulator = new files.V86({
    wasm_path: files.wasm,
    bios: buffer(files.bios),
    vga_bios: buffer(files.vgaBios),
    bzimage: buffer(files.bzImage),
    initrd: buffer(files.initrd),
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
    version: files.version,
    properties: o.props,
    hidden: o.bare ?? false,
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
    machine.plug(nvme.fn, 0, port.behind!);
  } else machine.plug(nvme.fn, V86_LAYOUT.ENDPOINT);
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
      const lost = plugged.lostInterrupts();
      const again = lost === 0 ? '' : `${lost} lost interrupts asked for again, `;
      return `${plugged.clflush()} CLFLUSH replaced, ${again}${emulator.get_instruction_counter() >>> 0} instructions`;
    },
    close: async () => {
      console.end('closed');
      await emulator.destroy();
    },
  };
}
