/**
 * Runs the kernel's own iommufd selftests, unmodified, against our server. Source and headers come from Debian's archive at
 * run time; nothing of the kernel is kept in this repository.
 */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { IommufdServer } from '../../src/adapters/iommufd-socket/server.ts';
import { ViommuError } from '../../src/core/errors.ts';
import { Archive, type Package } from './apt.ts';
import { parseTap, type TapReport } from './tap.ts';

const USAGE = `usage: npm run conformance:iommufd [-- --source linux-source-7.3] [--only NAME] [--log FILE]

  --source PACKAGE   another kernel than the newest 7.2.y (it must be 7.2 or newer)
  --only NAME        run only the cases of one test, fixture or variant (the program's -t, -f, -v take it)
  --log FILE         keep the program's whole output`;

const OLDEST = [7, 2] as const;
/** Files of the source that the test is built from. */
const FILES = [
  '*/tools/testing/selftests/iommu/iommufd.c',
  '*/tools/testing/selftests/iommu/iommufd_fail_nth.c',
  '*/tools/testing/selftests/iommu/iommufd_utils.h',
  '*/tools/testing/selftests/kselftest.h',
  '*/tools/testing/selftests/kselftest_harness.h',
  '*/drivers/iommu/iommufd/iommufd_test.h',
];

/** The programs; the second makes the kernel fail its nth allocation, for every n. */
const PROGRAMS = ['iommufd', 'iommufd_fail_nth'] as const;

const CACHE = resolve('.cache/conformance-iommufd');
const RUN_LIMIT_MS = 30 * 60_000;

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** The newest source that has headers of its own version, from 7.2 on. */
function choose(archive: Archive, wanted: string | undefined): { readonly source: Package; readonly headers: Package } {
  const series = (name: string) => name.slice('linux-source-'.length).split('.').map(Number);
  const names =
    wanted !== undefined
      ? [wanted]
      : archive
          .names('^linux-source-[0-9]')
          .filter((n) => {
            const [major = 0, minor = 0] = series(n);
            return major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
          })
          // 7.2 first: its results are known; newer series when the archive has moved on.
          .sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
  const headers = new Set(archive.versions('linux-libc-dev'));
  for (const name of names) {
    const version = archive.versions(name).find((v) => headers.has(v));
    if (version !== undefined) {
      return { source: { name, version }, headers: { name: 'linux-libc-dev', version } };
    }
  }
  throw new ViommuError('E_MISSING', 'host', 'the archive has no kernel source of 7.2 or newer with its headers', {
    looked: names.join(' '),
  });
}

interface Built {
  readonly programs: readonly string[];
  readonly release: '7.2' | '7.3';
}

/** Downloads, unpacks and compiles. @returns the test programs. */
function build(wanted: string | undefined): Built {
  const archive = new Archive(join(CACHE, 'apt'));
  say('Asking the archive for kernel sources ...');
  archive.update();
  const { source, headers } = choose(archive, wanted);
  const tree = join(CACHE, `tree-${source.version}`);
  const programs = PROGRAMS.map((p) => join(CACHE, `${p}-${source.version}`));
  try {
    compile(archive, source, headers, tree, programs);
  } finally {
    rmSync(tree, { recursive: true, force: true });
  }
  // From 7.3 on the test driver keeps dirty bits by host page.
  return { programs, release: source.name.endsWith('-7.2') ? '7.2' : '7.3' };
}

function compile(archive: Archive, source: Package, headers: Package, tree: string, into: readonly string[]): void {
  rmSync(tree, { recursive: true, force: true });
  const packages: Package[] = [source, headers];
  const capHeader = existsSync('/usr/include/sys/capability.h');
  const capVersion = archive.versions('libcap-dev')[0];
  if (!capHeader && capVersion !== undefined) packages.push({ name: 'libcap-dev', version: capVersion });
  for (const p of packages) {
    const { sha256 } = archive.unpack(p, tree);
    say(`${p.name} ${p.version}\n  sha256 ${sha256}`);
  }
  const tar = join(tree, 'usr/src', `${source.name}.tar.xz`);
  execFileSync('tar', ['-C', tree, '--strip-components=1', '-xJf', tar, '--wildcards', ...FILES]);
  const tests = join(tree, 'tools/testing/selftests');
  const include = join(tree, 'usr/include');
  const flags = ['-O2', '-Wall', '-Wno-unused-function', '-D_GNU_SOURCE='];
  const triplet = execFileSync('cc', ['-print-multiarch'], { encoding: 'utf8' }).trim();
  const paths = ['-I', tests, '-isystem', include, '-isystem', join(include, triplet)];
  for (const [i, p] of PROGRAMS.entries()) {
    execFileSync('cc', [...flags, ...paths, join(tests, `iommu/${p}.c`), '-o', into[i]!, '-l:libcap.so.2'], {
      stdio: 'inherit',
    });
  }
}

function runProgram(program: string, preload: string, socket: string, args: readonly string[]): Promise<string> {
  return new Promise((done, fail) => {
    const child = spawn(program, args, {
      env: { ...process.env, LD_PRELOAD: preload, IOMMUFD_SOCK: socket, IOMMUFD_NOHUGE: '1', IOMMUFD_FAIL_NTH: '1' },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: RUN_LIMIT_MS,
    });
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (t: string) => {
      text += t;
    });
    child.stderr.setEncoding('utf8').on('data', (t: string) => {
      text += t;
    });
    child.on('error', fail);
    child.on('close', (code, signal) => {
      if (signal !== null) text += `\nended by ${signal}\n`;
      else if (code !== 0 && code !== 1) text += `\nended with status ${code}\n`;
      done(text);
    });
  });
}

/** Prints the table. @returns whether everything passed. */
function report(tap: TapReport, text: string): boolean {
  const fixtures = [...new Set(tap.cases.map((c) => c.fixture))];
  say('');
  say(`${'fixture'.padEnd(26)}${'pass'.padStart(6)}${'skip'.padStart(6)}${'fail'.padStart(6)}${'total'.padStart(7)}`);
  const count = (result: string, fixture?: string) =>
    tap.cases.filter((c) => c.result === result && (fixture === undefined || c.fixture === fixture)).length;
  for (const f of fixtures) {
    const row = ['pass', 'skip', 'fail'].map((r) => count(r, f));
    const total = row.reduce((a, b) => a + b, 0);
    say(`${f.padEnd(26)}${row.map((n) => String(n).padStart(6)).join('')}${String(total).padStart(7)}`);
  }
  const total = [count('pass'), count('skip'), count('fail')].map((n) => String(n).padStart(6)).join('');
  say(`${'all'.padEnd(26)}${total}${String(tap.cases.length).padStart(7)}`);
  const unexpected = tap.cases.filter((c) => c.result === 'fail');
  for (const c of unexpected) {
    say(`\nFAILED ${c.name}`);
    const lines = text.split('\n');
    const at = lines.findIndex((l) => l.includes(`RUN           ${c.name} `));
    for (const l of lines.slice(at + 1, at + 8)) if (/:|assert/.test(l)) say(`  ${l}`);
  }
  const complete = tap.planned > 0 && tap.cases.length === tap.planned;
  if (!complete) say(`\nThe program announced ${tap.planned} cases and finished ${tap.cases.length}.`);
  return unexpected.length === 0 && complete;
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      source: { type: 'string' },
      only: { type: 'string' },
      log: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help === true) {
    say(USAGE);
    return 0;
  }
  mkdirSync(CACHE, { recursive: true });
  const { programs, release } = build(values.source);
  const shim = resolve('tools/iommufd-preload');
  execFileSync('make', ['-s', '-C', shim, 'libiommufd-preload.so'], { stdio: 'inherit' });
  const socket = join(CACHE, `server-${process.pid}.sock`);
  const server = new IommufdServer({ path: socket, backend: 'mock', release });
  server.onFailure = (e) => say(`the server failed: ${e.stack ?? e.message}`);
  await server.listen();
  try {
    const filter = values.only === undefined ? [] : ['-t', values.only];
    let passed = true;
    let log = '';
    for (const [i, program] of programs.entries()) {
      say(`Running ${PROGRAMS[i]} (a few minutes) ...`);
      const text = await runProgram(program, join(shim, 'libiommufd-preload.so'), socket, filter);
      log += text;
      if (values.log !== undefined) writeFileSync(values.log, log);
      const tap = parseTap(text);
      // With --only a program may have nothing to run.
      if (values.only === undefined || tap.cases.length > 0) passed = report(tap, text) && passed;
    }
    return passed ? 0 : 1;
  } finally {
    await server.close();
  }
}

/** Debian says so itself; elsewhere the archive is of no use. */
function distribution(): string {
  try {
    return /^PRETTY_NAME="?([^"\n]*)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown';
  } catch {
    return 'unknown';
  }
}

try {
  process.exitCode = await main();
} catch (e) {
  if (!(e instanceof ViommuError)) throw e;
  process.stderr.write(`conformance:iommufd: ${e.message} (this machine: ${distribution()})\n`);
  process.exitCode = 2;
}
