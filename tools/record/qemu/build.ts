import { execFileSync, spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { ViommuError } from '../../../src/core/errors.ts';
import { packageFolder } from '../../package-folder.ts';

/** Versions of QEMU's plugin interface the recorder can be built for, the newest that was tried first. 4 is QEMU 9.2. */
const VERSIONS = [7, 6, 5, 4, 8, 9, 10] as const;
const OLDEST = { major: 9, minor: 2 } as const;

/** What QEMU says it is. @throws ViommuError `E_MISSING` when it cannot be run, `E_VERSION` before 9.2. */
export function qemuVersion(qemu: string): string {
  let text: string;
  try {
    text = execFileSync(qemu, ['--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (e) {
    const what =
      e instanceof Error && 'code' in e && e.code === 'ENOENT'
        ? 'is not there: viommu doctor says how to get it'
        : `fails: ${e}`;
    throw new ViommuError('E_MISSING', 'caller', `${qemu} ${what}`, {}, e);
  }
  const m = /version (\d+)\.(\d+)(\S*)(?: (\([^)]*\)))?/.exec(text);
  if (m === null) throw new ViommuError('E_VERSION', 'caller', `${qemu}: no version in "${text.split('\n')[0]}"`);
  const [major, minor] = [Number(m[1]), Number(m[2])];
  if (major < OLDEST.major || (major === OLDEST.major && minor < OLDEST.minor))
    throw new ViommuError('E_VERSION', 'caller', `${qemu} is ${major}.${minor}: recording needs QEMU 9.2 or newer`);
  return `${m[1]}.${m[2]}${m[3]}${m[4] === undefined ? '' : ` ${m[4]}`}`;
}

function compile(into: string, version: number): void {
  const folder = join(packageFolder(), 'tools/record/qemu');
  const sources = readdirSync(folder).filter((f) => f.endsWith('.c'));
  const flags = ['-O2', '-shared', '-fPIC', '-fvisibility=hidden', `-DVIOMMU_PLUGIN_API=${version}`];
  const compiler = process.env.CC ?? 'cc';
  const ran = spawnSync(compiler, [...flags, '-o', into, ...sources.map((s) => join(folder, s))], { encoding: 'utf8' });
  if (ran.error !== undefined)
    throw new ViommuError(
      'E_MISSING',
      'caller',
      `there is no C compiler (${compiler}): viommu doctor says how to get one`,
    );
  if (ran.status !== 0)
    throw new ViommuError('EIO', 'host', `the plugin cannot be built: ${ran.stderr.trim().split('\n')[0]}`);
}

/**
 * Builds the plugin for the version of the interface that this QEMU takes.
 * @returns its path. @throws ViommuError `E_MISSING` (no compiler, no plugins in QEMU), `E_VERSION`, `EIO`.
 */
export function buildPlugin(qemu: string, folder: string): string {
  const path = join(folder, 'recorder.so');
  let said = '';
  for (const version of VERSIONS) {
    compile(path, version);
    const probe = ['-M', 'none', '-nodefaults', '-display', 'none', '-monitor', 'none', '-plugin', `${path},probe=on`];
    const ran = spawnSync(qemu, probe, { encoding: 'utf8', timeout: 30_000 });
    if (ran.stderr.includes('viommu-recorder: taken')) return path;
    said = ran.stderr.trim().split('\n')[0] ?? '';
    if (!said.includes('API version')) break;
  }
  if (/plugin.*(invalid option|not supported)|invalid option/i.test(said))
    throw new ViommuError('E_MISSING', 'caller', `${qemu} is built without plugins: --enable-plugins is needed`);
  throw new ViommuError('E_VERSION', 'caller', `${qemu} does not take the plugin: ${said}`);
}
