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

/** A guest on an unmodified QEMU that has a function of ours by vfio-pci, through our /dev/iommu. */
export interface VfioRun {
  readonly nvme: NvmeFunction;
  readonly server: IommufdServer;
  readonly guest: QemuGuest;
  close(): Promise<void>;
}

export interface VfioOptions {
  readonly arch: 'amd64' | 'arm64';
  /** The guest's name of the function. */
  readonly bdf: string;
  /** Kernel modules besides those of the disk and of VFIO. */
  readonly modules?: readonly string[];
  /** QEMU's machine, vIOMMU and firmware. */
  readonly qemu: (at: (name: string) => string) => readonly string[];
  /** Properties of vfio-pci beside the device itself. */
  readonly device?: string;
  readonly append: string;
  /** The hardware loses invalidations. */
  readonly deaf?: boolean;
  readonly tell?: Tell;
  /** Libraries in front of the preload library. */
  readonly preload?: readonly string[];
  /** Environment variables besides those of the preload library. */
  readonly environment?: Readonly<Record<string, string>>;
}

/** The preload library. @throws ViommuError `E_MISSING` it is not built. */
export function preloadLibrary(name = 'libiommufd-preload.so'): string {
  const path = join(packageFolder(), 'tools/iommufd-preload', name);
  if (!existsSync(path)) throw new ViommuError('E_MISSING', 'caller', `${path} is missing; run: npm run preload`);
  return path;
}

/** Stands up a server with an NVMe function, and QEMU with an unmodified Debian kernel that gets it. */
export async function bootVfio(o: VfioOptions): Promise<VfioRun> {
  const files = liveFiles(o.arch);
  const dir = mkdtempSync(join(tmpdir(), 'viommu-live-'));
  const at = (name: string) => join(dir, name);
  const init = readFileSync(join(packageFolder(), 'tools/live/guest/init'));
  const modules = [...(o.modules ?? []), 'nvme', 'vfio-pci', 'vfio_iommu_type1'];
  writeFileSync(
    at('initrd'),
    initramfs({ files: files.files, modules, extra: { init, bdf: Buffer.from(`${o.bdf}\n`) } }),
  );
  const nvme = new NvmeFunction({ disk: new RamDisk(16 << 20) });
  const socket = at('iommu.sock');
  const server = new IommufdServer({
    path: socket,
    backend: o.arch === 'amd64' ? 'vtd' : 'smmuv3',
    functions: [nvme.fn],
    ignoreInvalidations: o.deaf ?? false,
    ...(o.tell === undefined ? {} : { tell: o.tell }),
  });
  server.onFailure = (e) => process.stderr.write(`the server: ${e.stack ?? e.message}\n`);
  await server.listen();
  const device = `vfio-pci,host=0000:01:00.0,iommufd=iommufd0${o.device === undefined ? '' : `,${o.device}`}`;
  const guest = new QemuGuest(
    files.qemu,
    [
      ...['-L', files.share, '-L', files.bios, '-nographic', '-no-reboot', '-nic', 'none', '-accel', 'tcg'],
      ...['-object', 'iommufd,id=iommufd0', '-kernel', files.kernel, '-initrd', at('initrd'), '-append', o.append],
      ...o.qemu(at),
      ...['-device', device],
    ],
    {
      ...o.environment,
      IOMMUFD_SOCK: socket,
      LD_PRELOAD: [...(o.preload ?? []), preloadLibrary()].join(' '),
    },
  );
  return {
    nvme,
    server,
    guest,
    async close() {
      await guest.stop();
      await server.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
