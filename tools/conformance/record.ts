/**
 * Debian's kernels for arm64 and amd64 boot on Debian's QEMU and use a disk through its IOMMU while `viommu record` watches; each
 * recording has to replay without a difference. Prints the two commands. `npm run live:prepare` gets kernels and QEMU.
 *   npm run conformance:record -- [arm64|amd64] [--smp N] [--keep FOLDER]
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { liveFiles } from '../live/environment.ts';
import { initramfs } from '../live/initramfs.ts';
import { packageFolder } from '../package-folder.ts';

const MACHINE = {
  arm64: ['-M', 'virt,iommu=smmuv3,gic-version=3', '-cpu', 'cortex-a76'],
  amd64: ['-M', 'q35', '-cpu', 'max', '-device', 'intel-iommu'],
} as const;
const KERNEL = {
  arm64: 'console=ttyAMA0 nokaslr quiet panic=-1',
  amd64: 'console=ttyS0 nokaslr quiet panic=-1 intel_iommu=on',
} as const;
const DISK = 64 << 20;
/** Far more than a boot takes. */
const SECONDS = '560';

const { values, positionals } = parseArgs({
  options: { smp: { type: 'string', default: '1' }, keep: { type: 'string' } },
  allowPositionals: true,
});
const folder = values.keep === undefined ? mkdtempSync(join(tmpdir(), 'viommu-recorded-')) : resolve(values.keep);
mkdirSync(folder, { recursive: true });
const program = join(packageFolder(), 'dist/tools/viommu.js');
let failed = 0;
try {
  for (const arch of ['arm64', 'amd64'] as const) {
    if (positionals.length > 0 && !positionals.includes(arch)) continue;
    const files = liveFiles(arch);
    const at = (name: string): string => join(folder, `${arch}-${name}`);
    const init = readFileSync(join(packageFolder(), 'tools/conformance/record-init.sh'));
    writeFileSync(at('initrd'), initramfs({ files: files.files, modules: ['nvme'], extra: { init } }));
    writeFileSync(at('disk'), '');
    truncateSync(at('disk'), DISK);
    const qemu = [
      files.qemu,
      ...['-L', files.share, '-L', files.bios],
      ...MACHINE[arch],
      ...['-smp', values.smp, '-m', '512M', '-display', 'none', '-serial', 'stdio', '-monitor', 'none', '-nic', 'none'],
      ...['-drive', `if=none,id=disk,format=raw,file=${at('disk')}`, '-device', 'nvme,serial=1,drive=disk'],
      ...['-kernel', files.kernel, '-initrd', at('initrd'), '-append', KERNEL[arch], '-no-reboot'],
    ];
    const command = ['record', 'qemu', '--seconds', SECONDS, '--output', at('boot.ndjson.gz'), '--', ...qemu];
    const shown = command.map((word) => (/[\s,]/.test(word) ? `'${word}'` : word)).join(' ');
    console.log(`$ viommu ${shown}`);
    const ran = spawnSync(process.execPath, [program, ...command], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    process.stdout.write(ran.stdout);
    const verified = /@@ verified on (\d+) processors/.exec(ran.stdout)?.[1];
    const ok = ran.status === 0 && verified === values.smp;
    if (!ok) failed++;
    console.log(
      `${arch}: ${ok ? 'recorded and replayed alike' : `FAILS (status ${ran.status}, guest ${verified ?? 'did not verify'})`}\n`,
    );
  }
} finally {
  if (values.keep === undefined) rmSync(folder, { recursive: true });
}
process.exitCode = failed === 0 ? 0 : 1;
