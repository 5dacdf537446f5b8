import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { RamDisk } from '../../devices/endpoints/nvme/disk.ts';
import { NvmeFunction } from '../../devices/endpoints/nvme/function.ts';
import { IommufdServer } from '../../src/adapters/iommufd-socket/server.ts';
import { ViommuError } from '../../src/core/errors.ts';
import type { Tell } from '../../src/ports/tell.ts';
import { packageFolder } from '../package-folder.ts';
import { liveFiles } from './environment.ts';
import { QemuGuest } from './guest.ts';
import { initramfs } from './initramfs.ts';
import { Qmp } from './qmp.ts';

/** A guest on an unmodified QEMU that has functions of ours by vfio-pci, through our /dev/iommu. */
export interface VfioRun {
  readonly nvme: readonly NvmeFunction[];
  readonly server: IommufdServer;
  readonly guest: QemuGuest;
  readonly qmp: Qmp;
  close(): Promise<void>;
}

/** What a run is made of. */
export interface VfioOptions {
  readonly arch: 'amd64' | 'arm64';
  /** The guest's name of the first function. */
  readonly bdf: string;
  /** QEMU's machine, vIOMMU and firmware; what comes before the devices. `at` names a file of the run's folder. */
  readonly qemu: (at: (name: string) => string) => readonly string[];
  /** Places of the functions, as vfio-pci's properties have them; none: QEMU's own NVMe at the place of the first. */
  readonly places: readonly string[];
  readonly append: string;
  /** The hardware loses invalidations. */
  readonly deaf?: boolean;
  readonly tell?: Tell;
  /** Libraries in front of the preload library. */
  readonly preload?: readonly string[];
  /** A guest that reboots starts anew. */
  readonly reboot?: boolean;
}

/** Properties of a vfio-pci device of the run, `n` from 0. */
export function vfioDevice(n: number, place: string): string {
  return `vfio-pci,id=v${n},host=0000:01:0${n}.0,iommufd=iommufd0,${place}`;
}

/** A built library of tools/iommufd-preload. @throws ViommuError `E_MISSING` it is not built. */
export function preloadLibrary(name = 'libiommufd-preload.so'): string {
  const path = join(packageFolder(), 'tools/iommufd-preload', name);
  if (!existsSync(path)) throw new ViommuError('E_MISSING', 'caller', `${path} is missing; run: npm run preload`);
  return path;
}

/** Stands up a server with NVMe functions, and QEMU with an unmodified Debian kernel that gets them. */
export async function bootVfio(o: VfioOptions): Promise<VfioRun> {
  const files = liveFiles(o.arch);
  const library = preloadLibrary();
  const dir = mkdtempSync(join(tmpdir(), 'viommu-live-'));
  const at = (name: string) => join(dir, name);
  const init = readFileSync(join(packageFolder(), 'tools/live/guest/init'));
  const extra = { init, bdf: Buffer.from(`${o.bdf}\n`) };
  writeFileSync(
    at('initrd'),
    initramfs({ files: files.files, modules: ['nvme', 'vfio-pci', 'vfio_iommu_type1'], extra }),
  );
  const nvme = o.places.map(
    (_, n) => new NvmeFunction({ disk: new RamDisk(16 << 20), identity: { serial: `LIVE${n}` } }),
  );
  const server = new IommufdServer({
    path: at('iommu.sock'),
    backend: o.arch === 'amd64' ? 'vtd' : 'smmuv3',
    functions: nvme.map(({ fn }) => fn),
    ignoreInvalidations: o.deaf ?? false,
    ...(o.tell === undefined ? {} : { tell: o.tell }),
  });
  server.onFailure = (e) => process.stderr.write(`the server: ${e.stack ?? e.message}\n`);
  await server.listen();
  if (o.places.length === 0) writeFileSync(at('disk'), new Uint8Array(16 << 20));
  const own = ['-drive', `file=${at('disk')},if=none,id=d,format=raw`, '-device', 'nvme,serial=1,drive=d,addr=5'];
  const devices = o.places.flatMap((place, n) => ['-device', vfioDevice(n, place)]);
  const guest = new QemuGuest(
    files.qemu,
    [
      ...['-L', files.share, '-L', files.bios, '-nographic', '-nic', 'none', '-accel', 'tcg', '-smp', '1'],
      ...(o.reboot === true ? [] : ['-no-reboot']),
      ...['-qmp', `unix:${at('qmp.sock')},server=on,wait=off`, '-object', 'iommufd,id=iommufd0'],
      ...['-kernel', files.kernel, '-initrd', at('initrd'), '-append', o.append],
      ...o.qemu(at),
      ...(o.places.length === 0 ? own : devices),
    ],
    { IOMMUFD_SOCK: at('iommu.sock'), LD_PRELOAD: [...(o.preload ?? []), library].join(' ') },
  );
  const close = async () => {
    await guest.stop();
    await server.close();
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    const qmp = await Qmp.open(at('qmp.sock'));
    return {
      nvme,
      server,
      guest,
      qmp,
      async close() {
        qmp.close();
        await close();
      },
    };
  } catch (e) {
    await close();
    throw new ViommuError('EIO', 'caller', `QEMU did not start:\n${guest.console.lines.slice(-12).join('\n')}`, {}, e);
  }
}
