import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

/** A block of a page that names a file: ```ts emulator.ts. */
export interface Block {
  readonly name: string;
  readonly text: string;
}

/** Every block of a page that names a file, in order. */
export function blocks(page: string): Block[] {
  const found = readFileSync(page, 'utf8').matchAll(/^```\w+ (\S+\.\w+)\n([\s\S]*?)^```$/gm);
  return [...found].map(([, name, text]) => ({ name: name!, text: text! }));
}

/** Whether a program that an example needs is on this machine. */
export function has(program: string, ...args: readonly string[]): boolean {
  return spawnSync(program, args, { stdio: 'ignore' }).status === 0;
}

/** A project of a user: an empty folder in which the packed package is installed. */
export class InstalledProject {
  readonly folder: string;

  /** @throws Error when nothing is built, or the package cannot be installed. */
  constructor() {
    if (!existsSync('dist/src/index.js')) throw new Error('nothing is built: npm run build');
    this.folder = mkdtempSync(join(tmpdir(), 'viommu-project-'));
    writeFileSync(join(this.folder, 'package.json'), '{"name":"project","private":true,"type":"module"}');
    // Dependencies come from here as well, so that no registry is needed.
    const tarballs = ['.', 'node_modules/eventemitter3', 'node_modules/binary-parser', 'node_modules/commander'].map(
      (f) => this.#pack(f),
    );
    const options = ['--offline', '--no-audit', '--no-fund', '--ignore-scripts'];
    this.run('npm', ['install', ...options, ...tarballs.map((t) => `./${t}`)]);
  }

  /** Packs a folder into the project. @returns the tarball's name. */
  #pack(folder: string): string {
    const before = readdirSync(this.folder);
    this.run('npm', ['pack', resolve(folder), '--ignore-scripts', '--silent']);
    return readdirSync(this.folder).find((name) => !before.includes(name))!;
  }

  /** Writes the files of a page into the project. @returns them. */
  copy(page: string): Block[] {
    const found = blocks(page);
    for (const { name, text } of found) writeFileSync(join(this.folder, name), text);
    return found;
  }

  /** Writes a file of the project. */
  write(name: string, text: string): void {
    writeFileSync(join(this.folder, name), text);
  }

  /** Runs a program in the project. @returns its standard output. @throws Error with all it said when it fails. */
  run(command: string, args: readonly string[]): string {
    try {
      return execFileSync(command, args, { cwd: this.folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
    } catch (error) {
      const { stdout, stderr } = error as { readonly stdout: string; readonly stderr: string };
      throw new Error(`${command} ${args.join(' ')}\n${stdout}${stderr}`);
    }
  }

  /** Runs a step of a workflow as a CI runner does: bash that stops at the first command that fails. */
  step(
    script: string,
    env: { readonly [name: string]: string } = {},
  ): { status: number | null; out: string; err: string } {
    const ran = spawnSync('bash', ['--noprofile', '--norc', '-eo', 'pipefail', '-c', script], {
      cwd: this.folder,
      encoding: 'utf8',
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    return { status: ran.status, out: ran.stdout, err: ran.stderr };
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** The scripts of a workflow's steps, in order. */
export function workflowSteps(text: string): string[] {
  const lines = text.split('\n');
  return lines.flatMap((line, i) => {
    const found = /^( *)(?:- )?run: (.*)$/.exec(line);
    if (found === null) return [];
    if (found[2] !== '|') return [found[2]!];
    const indent = found[1]!.length;
    const rest = lines.slice(i + 1);
    const end = rest.findIndex((l) => l.trim() !== '' && l.search(/\S/) <= indent);
    return [(end < 0 ? rest : rest.slice(0, end)).map((l) => l.trim()).join('\n')];
  });
}
