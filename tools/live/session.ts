import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { RamDisk } from '../../devices/endpoints/nvme/disk.ts';
import { NvmeFunction } from '../../devices/endpoints/nvme/function.ts';
import { LiveMachine, type LiveOptions } from '../../src/adapters/qemu/live-machine.ts';
import type { PluggedMachine } from '../../src/machine/plugged-machine.ts';
import type { IommuUnit } from '../../src/machine/unit.ts';
import { packageFolder } from '../package-folder.ts';
import type { Guest } from './console.ts';
import type { LiveFiles } from './environment.ts';
import { QemuGuest } from './guest.ts';
import { initramfs } from './initramfs.ts';

/** The devfn of our one function, on bus 0. */
export const NVME_DEVFN = 1 << 3;
const RAM_BYTES = 512 << 20;

/** A running guest on a machine of ours, under whatever CPU. */
export interface LiveRun {
  readonly machine: PluggedMachine;
  readonly unit: IommuUnit;
  readonly nvme: NvmeFunction;
  readonly guest: Guest;
  /** What went wrong in handlers. */
  readonly errors: readonly unknown[];
  /** Runs DMA that no store of the guest caused. */
  outside<T>(action: () => T): T;
  /** The guest was told to power off: waits until it has, and says how much it did. */
  finished(): Promise<string>;
  close(): Promise<void>;
}

export interface SessionOptions {
  readonly files: LiveFiles;
  /** The guest's name of the function, for its init. */
  readonly bdf: string;
  readonly machine: Omit<LiveOptions, 'ramFile' | 'trapSocket' | 'qtestSocket'>;
  readonly window: { readonly base: number; readonly bytes: number; readonly minva?: string };
  /** QEMU's own arguments: machine, CPU, firmware tables, kernel command line. `at` names a file of the run's folder. */
  readonly qemu: (at: (name: string) => string) => readonly string[];
}

/** Stands up our machine, then QEMU with an unmodified Debian kernel on it. */
export async function startSession(o: SessionOptions): Promise<LiveRun> {
  const dir = mkdtempSync(join(tmpdir(), 'viommu-live-'));
  const at = (name: string) => join(dir, name);
  writeFileSync(at('ram'), '');
  truncateSync(at('ram'), RAM_BYTES);
  const init = readFileSync(join(packageFolder(), 'tools/live/guest/init'));
  const modules = ['nvme', 'vfio-pci', 'vfio_iommu_type1'];
  const initrd = initramfs({ files: o.files.files, modules, extra: { init, bdf: Buffer.from(`${o.bdf}\n`) } });
  writeFileSync(at('initrd'), initrd);
  const sockets = { trapSocket: at('trap.sock'), qtestSocket: at('qtest.sock') };
  const live = new LiveMachine({ ...o.machine, ramFile: at('ram'), ...sockets });
  const nvme = new NvmeFunction({ disk: new RamDisk(16 << 20), integrated: true });
  live.machine.plug(nvme.fn, NVME_DEVFN);
  await live.start();
  const hex = (n: number) => `0x${n.toString(16)}`;
  const { window } = o;
  const plugin = [
    o.files.trap,
    `base=${hex(window.base)}`,
    `size=${hex(window.bytes)}`,
    ...(window.minva === undefined ? [] : [`minva=${window.minva}`]),
    `sock=${sockets.trapSocket}`,
  ].join(',');
  const backend = `memory-backend-file,id=m,size=512M,mem-path=${at('ram')},share=on`;
  const guest = new QemuGuest(o.files.qemu, [
    ...[
      '-L',
      o.files.share,
      '-L',
      o.files.bios,
      '-m',
      '512M',
      '-nographic',
      '-no-reboot',
      '-nic',
      'none',
      '-accel',
      'tcg',
    ],
    ...['-object', backend, '-machine', 'memory-backend=m'],
    ...['-kernel', o.files.kernel, '-initrd', at('initrd')],
    ...['-plugin', plugin, '-qtest', `unix:${sockets.qtestSocket}`, '-qtest-log', '/dev/null'],
    ...o.qemu(at),
  ]);
  return {
    machine: live.machine,
    unit: live.machine.unit,
    nvme,
    guest,
    errors: live.errors,
    outside: (action) => live.outside(action),
    async finished() {
      await guest.ended();
      return `${live.trap.count} trapped stores`;
    },
    async close() {
      await guest.stop();
      live.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
