import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type { Optional, Packages } from './tools.ts';

/** What was found of one of the optional things. */
export interface Look {
  readonly name: string;
  readonly for: string;
  /** What it says of itself, or where it is; null: it is not there. */
  readonly found: string | null;
  /** The command that gets it. */
  readonly get: string;
}

/** How packages are installed here. */
export interface Installer {
  readonly with: keyof Packages;
  readonly command: string;
}

const APT: Installer = { with: 'apt', command: 'apt-get install' };

/** By what the system says it is (os-release), else apt. */
export function installer(platform: string, osRelease: string): Installer {
  if (platform === 'darwin') return { with: 'brew', command: 'brew install' };
  if (/^ID(_LIKE)?=.*\b(fedora|rhel|centos)\b/m.test(osRelease)) return { with: 'dnf', command: 'dnf install' };
  return APT;
}

/** The same of this machine. */
export function thisInstaller(): Installer {
  const path = '/etc/os-release';
  return installer(process.platform, existsSync(path) ? readFileSync(path, 'utf8') : '');
}

function program([command = '', ...args]: readonly string[]): string | null {
  const ran = spawnSync(command, args, { encoding: 'utf8', timeout: 10_000, stdio: ['ignore', 'pipe', 'pipe'] });
  if (ran.error !== undefined || ran.status === 127) return null;
  const said = `${ran.stdout}\n${ran.stderr}`.split('\n').find((line) => line.trim() !== '');
  return said?.trim().slice(0, 60) ?? 'there';
}

function module(name: string): string | null {
  try {
    const manifest = createRequire(import.meta.url)(`${name}/package.json`) as { readonly version: string };
    return manifest.version;
  } catch {
    return null;
  }
}

const FOLDERS = ['/usr/lib', '/usr/lib64', '/lib', '/usr/local/lib', '/opt/homebrew/lib'];

function library(name: string): string | null {
  for (const folder of FOLDERS) {
    if (!existsSync(folder)) continue;
    const inside = readdirSync(folder, { withFileTypes: true }).filter(
      (e) => e.isDirectory() && e.name.includes('-linux-'),
    );
    for (const f of [folder, ...inside.map((e) => join(folder, e.name))])
      if (existsSync(join(f, name))) return join(f, name);
  }
  return null;
}

function found({ found: by }: Optional): string | null {
  if ('program' in by) return program(by.program);
  if ('module' in by) return module(by.module);
  return library(by.library);
}

/** Looks for one of the optional things. */
export function look(optional: Optional, installed: Installer): Look {
  const { name, get } = optional;
  const packages = typeof get === 'string' ? null : get[installed.with];
  const command =
    typeof get === 'string' ? get : packages === null ? 'see its own page' : `${installed.command} ${packages}`;
  return { name, for: optional.for, found: found(optional), get: command };
}
