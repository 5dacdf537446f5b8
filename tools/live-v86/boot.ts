import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { V86_VERSION } from '../../src/adapters/v86/internals.ts';
import { ViommuError } from '../../src/core/errors.ts';
import { initramfs } from '../live/initramfs.ts';
import { packageFolder } from '../package-folder.ts';
import { functionName, startV86, type V86Files, type V86Run, type V86StartOptions } from './start.ts';

export type Kernel = '6.1' | '7.2' | '7.2-unpatched';

export interface V86BootOptions extends V86StartOptions {
  readonly kernel?: Kernel;
  /** Further files of the guest: path → contents, executable. */
  readonly extra?: Readonly<Record<string, Uint8Array>>;
}

/** The package's folder and version: what is installed here, else what the build fetched. @throws ViommuError `E_MISSING`. */
export function v86Package(): { readonly dir: string; readonly version: string } {
  for (const from of [import.meta.url, join(liveFolder(), 'build.js')]) {
    try {
      const file = createRequire(from).resolve('v86/package.json');
      return { dir: dirname(file), version: (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version };
    } catch {
      // Not there: the next place.
    }
  }
  throw new ViommuError('E_MISSING', 'caller', `v86 ${V86_VERSION} is not installed; run: npm run live:build`);
}

export function liveFolder(): string {
  return resolve(process.env.VIOMMU_LIVE_V86 ?? '.cache/live-v86');
}

/** @throws ViommuError `E_MISSING` names the file and the command that builds it. */
export function built(name: string, how: string): Uint8Array {
  const path = join(liveFolder(), name);
  if (!existsSync(path))
    throw new ViommuError('E_MISSING', 'caller', `${path} is missing; run: npm run live:build${how}`);
  return readFileSync(path);
}

/**
 * A guest kernel, as the build left it.
 * @throws ViommuError `E_MISSING` when it is not there, or was built from another configuration than the checkout's.
 */
export function builtKernel(kernel: Kernel): Uint8Array {
  const how = ` -- ${kernel}`;
  const image = built(`bzImage-${kernel}`, how);
  const from = join(liveFolder(), `kernel-${kernel}.config`);
  const config = join(packageFolder(), 'tools/live-v86/kernel.config');
  if (!existsSync(from) || !readFileSync(from).equals(readFileSync(config))) {
    const path = join(liveFolder(), `bzImage-${kernel}`);
    throw new ViommuError(
      'E_MISSING',
      'caller',
      `${path} is not of this checkout's kernel.config; run: npm run live:build${how}`,
    );
  }
  return image;
}

/** The guest's first file system. */
export function initrdOf(o: Pick<V86BootOptions, 'behindRootPort' | 'extra'>): Uint8Array {
  return initramfs({
    files: join(liveFolder(), 'pkg/busybox-static'),
    modules: [],
    extra: {
      init: readFileSync(join(packageFolder(), 'tools/live/guest/init')),
      bdf: Buffer.from(`${functionName(o.behindRootPort)}\n`),
      ...o.extra,
    },
  });
}

/** Boots a guest in v86 in this process. @throws ViommuError `E_MISSING` for a file or package that is not there. */
export async function bootV86(o: V86BootOptions): Promise<V86Run> {
  const kernel = o.kernel ?? '6.1';
  const { dir, version } = v86Package();
  const { V86 } = (await import(pathToFileURL(join(dir, 'build/libv86.mjs')).href)) as Pick<V86Files, 'V86'>;
  return startV86(
    {
      V86,
      version,
      wasm: join(dir, 'build/v86.wasm'),
      bios: built('seabios.bin', ''),
      vgaBios: built('vgabios.bin', ''),
      bzImage: builtKernel(kernel),
      initrd: initrdOf(o),
    },
    o,
  );
}
