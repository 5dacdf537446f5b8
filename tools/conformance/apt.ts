import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ViommuError } from '../../src/core/errors.ts';

const MIRROR = process.env.DEBIAN_MIRROR ?? 'http://deb.debian.org/debian';
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
const SUITES = ['sid', 'trixie-backports'] as const;

export interface Package {
  readonly name: string;
  readonly version: string;
}

/**
 * The distribution's archive through its own tool, in a directory of our own: signatures and checksums are apt's, the
 * machine's package sources stay as they are, and no privilege is needed.
 */
export class Archive {
  readonly #dir: string;
  readonly #env: NodeJS.ProcessEnv;

  /** @param dir keeps lists and packages between runs. @throws ViommuError `E_MISSING`: not a Debian machine. */
  constructor(dir: string) {
    if (!existsSync(KEYRING)) {
      throw new ViommuError('E_MISSING', 'caller', "Debian's archive keys are not installed", { keyring: KEYRING });
    }
    this.#dir = dir;
    for (const d of ['lists/partial', 'cache/archives/partial', 'state']) mkdirSync(join(dir, d), { recursive: true });
    const file = (name: string, text: string) => writeFileSync(join(dir, name), text);
    file('status', '');
    file('sources.list', SUITES.map((s) => `deb [signed-by=${KEYRING}] ${MIRROR} ${s} main\n`).join(''));
    file(
      'apt.conf',
      [
        `Dir::Etc::sourcelist "${dir}/sources.list";`,
        'Dir::Etc::sourceparts "-";',
        'Dir::Etc::preferences "-";',
        'Dir::Etc::preferencesparts "-";',
        `Dir::State "${dir}/state";`,
        `Dir::State::lists "${dir}/lists";`,
        `Dir::State::status "${dir}/status";`,
        `Dir::Cache "${dir}/cache";`,
        'Acquire::Languages "none";',
        'APT::Sandbox::User "";',
        '',
      ].join('\n'),
    );
    this.#env = { ...process.env, APT_CONFIG: join(dir, 'apt.conf'), LC_ALL: 'C' };
  }

  #run(command: string, args: readonly string[]): string {
    return execFileSync(command, args, {
      cwd: this.#dir,
      env: this.#env,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  }

  update(): void {
    this.#run('apt-get', ['update', '-q']);
  }

  /** Versions of a package, newest first. */
  versions(name: string): string[] {
    const out = this.#run('apt-cache', ['madison', name]);
    return [...new Set(out.split('\n').flatMap((l) => l.split('|')[1]?.trim() ?? []))];
  }

  names(pattern: string): string[] {
    const out = this.#run('apt-cache', ['search', '--names-only', pattern]);
    return out.split('\n').flatMap((l) => l.split(' - ')[0]?.trim() || []);
  }

  /** Downloads (once) and unpacks a package below `into`. @returns its file name and SHA-256, which is the archive's. */
  unpack(p: Package, into: string): { readonly file: string; readonly sha256: string } {
    const shown = this.#run('apt-cache', ['show', `${p.name}=${p.version}`]);
    const sha256 = /^SHA256: ([0-9a-f]{64})$/m.exec(shown)?.[1] ?? '';
    const mine = (f: string) =>
      f.startsWith(`${p.name}_`) && f.endsWith('.deb') && sumOf(join(this.#dir, f)) === sha256;
    if (!readdirSync(this.#dir).some(mine)) this.#run('apt-get', ['download', '-q', `${p.name}=${p.version}`]);
    const file = readdirSync(this.#dir).find(mine);
    if (file === undefined) {
      throw new ViommuError('E_MISSING', 'host', `the download of ${p.name} does not have the archive's checksum`, {
        version: p.version,
      });
    }
    mkdirSync(into, { recursive: true });
    this.#run('dpkg-deb', ['-x', file, into]);
    return { file, sha256 };
  }
}

function sumOf(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}
