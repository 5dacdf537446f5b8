import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { ViommuError } from '../../src/core/errors.ts';

/** What `tools/live/prepare.sh` made. */
export interface LiveFiles {
  readonly qemu: string;
  /** QEMU's firmware and ROM files. */
  readonly share: string;
  /** SeaBIOS images. */
  readonly bios: string;
  readonly kernel: string;
  /** Unpacked kernel and busybox packages. */
  readonly files: string;
  readonly trap: string;
  readonly iasl: string;
}

const REMEDY = 'run: npm run live:prepare';

/**
 * Finds the prepared files for an architecture.
 * @throws ViommuError `E_MISSING` names the first file that is missing and the command that makes it.
 */
export function liveFiles(arch: 'arm64' | 'amd64'): LiveFiles {
  const root = resolve(process.env.VIOMMU_LIVE ?? '.cache/live');
  const found: LiveFiles = {
    qemu: join(root, 'bin', arch === 'arm64' ? 'qemu-system-aarch64' : 'qemu-system-x86_64'),
    share: join(root, 'root/usr/share/qemu'),
    bios: join(root, 'root/usr/share/seabios'),
    kernel: join(root, arch, 'vmlinuz'),
    files: join(root, arch, 'files'),
    trap: join(root, 'trap.so'),
    iasl: join(root, 'bin/iasl'),
  };
  for (const [what, path] of Object.entries(found)) {
    if (!existsSync(path)) throw new ViommuError('E_MISSING', 'caller', `${what} is missing (${path}); ${REMEDY}`);
  }
  return found;
}
