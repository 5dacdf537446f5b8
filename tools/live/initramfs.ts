import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { ViommuError } from '../../src/core/errors.ts';

interface CpioEntry {
  readonly name: string;
  readonly mode: number;
  readonly data: Uint8Array;
}

/** An archive in the kernel's "newc" initramfs format. */
export function cpio(entries: readonly CpioEntry[]): Uint8Array {
  const parts: Buffer[] = [];
  const pad = (length: number) => Buffer.alloc((4 - (length % 4)) % 4);
  [...entries, { name: 'TRAILER!!!', mode: 0, data: new Uint8Array(0) }].forEach((e, i) => {
    const name = Buffer.from(`${e.name}\0`);
    const fields = [i + 1, e.mode, 0, 0, 1, 0, e.data.length, 0, 0, 0, 0, name.length, 0];
    const head = Buffer.from(`070701${fields.map((f) => f.toString(16).padStart(8, '0')).join('')}`);
    parts.push(head, name, pad(head.length + name.length), Buffer.from(e.data), pad(e.data.length));
  });
  return Buffer.concat(parts);
}

export interface InitramfsParts {
  /** Folder into which the kernel packages were unpacked. */
  readonly files: string;
  /** Kernel modules to load, in order; what they depend on is added, what is built in is left out. */
  readonly modules: readonly string[];
  /** Extra files: path in the guest → contents; executable. */
  readonly extra: Readonly<Record<string, Uint8Array>>;
}

/**
 * A gzip'ed initramfs: busybox, the modules with their load order in /mods/order, and the given files.
 * @throws ViommuError `E_MISSING` when busybox is not there.
 */
export function initramfs(parts: InitramfsParts): Uint8Array {
  const where = new Map<string, string>();
  let busybox = '';
  for (const f of walk(parts.files)) {
    const base = f.slice(f.lastIndexOf('/') + 1);
    const module = /^(.*)\.ko(\.xz)?$/.exec(base);
    if (module) where.set(module[1]!.replaceAll('-', '_'), f);
    // The package also has small helper files of that name.
    else if (base === 'busybox' && f.endsWith('/bin/busybox')) busybox = f;
  }
  if (busybox === '')
    throw new ViommuError('E_MISSING', 'caller', `no busybox under ${parts.files}: run tools/live/prepare.sh`);
  const order: string[] = [];
  const images = new Map<string, Uint8Array>();
  const add = (name: string) => {
    const file = where.get(name);
    if (file === undefined || images.has(name)) return;
    const image = file.endsWith('.xz')
      ? execFileSync('xz', ['-dc', file], { maxBuffer: 64 << 20 })
      : readFileSync(file);
    images.set(name, image);
    const depends = /(?:^|\0)depends=([^\0]*)\0/.exec(image.toString('latin1'))?.[1] ?? '';
    for (const d of depends.split(',')) if (d !== '') add(d.replaceAll('-', '_'));
    order.push(name);
  };
  for (const m of parts.modules) add(m.replaceAll('-', '_'));
  const dir = (name: string): CpioEntry => ({ name, mode: 0o40755, data: new Uint8Array(0) });
  const file = (name: string, data: Uint8Array, mode = 0o100755): CpioEntry => ({ name, mode, data });
  return gzipSync(
    cpio([
      dir('bin'),
      dir('dev'),
      dir('mods'),
      file('bin/busybox', readFileSync(busybox)),
      ...order.map((m) => file(`mods/${m}.ko`, images.get(m)!, 0o100644)),
      file('mods/order', Buffer.from(order.map((m) => `${m}.ko\n`).join('')), 0o100644),
      ...Object.entries(parts.extra).map(([name, data]) => file(name, data)),
    ]),
    { level: 1 },
  );
}

function* walk(folder: string): Generator<string> {
  for (const e of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, e.name);
    if (e.isDirectory()) yield* walk(path);
    else if (e.isFile()) yield path;
  }
}
