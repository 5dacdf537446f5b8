import { existsSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { ViommuError } from '../../src/core/errors.ts';
import type { Tell } from '../../src/ports/tell.ts';
import { bootVfio, preloadLibrary, type VfioRun } from './vfio-machine.ts';

const KERNEL = 'nokaslr quiet loglevel=7 panic=-1';
const PLACE = 'addr=5';
const BDF = '0000:00:05.0';

/** What both machines can be asked for. */
export interface VfioGuestOptions {
  readonly tell?: Tell;
  /** The hardware loses invalidations. */
  readonly deaf?: boolean;
}

/** An amd64 guest. */
export interface Amd64VfioOptions extends VfioGuestOptions {
  /** QEMU's intel-iommu, or none. */
  readonly iommu: 'none' | 'first-stage' | 'caching-mode';
  /** RAM as a shared memfd (IOAS_MAP_FILE) instead of anonymous memory. */
  readonly memfd?: boolean;
  /** Functions of ours: one at 00:05.0, or two behind ports where they come and go; none: QEMU's own NVMe. */
  readonly functions?: 0 | 1 | 2;
}

export function bootAmd64Vfio(o: Amd64VfioOptions): Promise<VfioRun> {
  const { iommu, memfd = false, functions = 1 } = o;
  const scalable = iommu === 'first-stage' ? ',scalable-mode=on,fsts=on' : '';
  const unit = iommu === 'none' ? [] : ['-device', `intel-iommu,caching-mode=on${scalable}`];
  const ram = memfd ? ['-object', 'memory-backend-memfd,id=m,size=512M,share=on', '-machine', 'memory-backend=m'] : [];
  const ports = [1, 2].flatMap((n) => ['-device', `pcie-root-port,id=rp${n},slot=${n},chassis=${n},addr=${n + 4}`]);
  return bootVfio({
    ...o,
    arch: 'amd64',
    bdf: functions === 2 ? '0000:01:00.0' : BDF,
    append: `console=ttyS0 ${KERNEL} intel_iommu=on${iommu === 'first-stage' ? ',sm_on' : ''}`,
    places: functions === 2 ? ['bus=rp1', 'bus=rp2'] : functions === 1 ? [PLACE] : [],
    reboot: functions === 2,
    qemu: () => [
      ...['-M', 'q35', '-cpu', 'max,la57=off', '-vga', 'none', '-m', '512M'],
      ...ram,
      ...unit,
      ...(functions === 2 ? ports : []),
    ],
  });
}

/** UEFI for the ARM machine: with accel=on QEMU describes its SMMU in ACPI tables only. @throws ViommuError `E_MISSING`. */
function armFirmware(): string {
  const root = resolve(process.env.VIOMMU_LIVE ?? '.cache/live');
  const places = [join(root, 'root/usr/share/qemu-efi-aarch64/QEMU_EFI.fd'), '/usr/share/qemu-efi-aarch64/QEMU_EFI.fd'];
  const found = places.find((p) => existsSync(p));
  if (found !== undefined) return found;
  throw new ViommuError('E_MISSING', 'caller', `no UEFI for arm64 (${places[0]}); run: npm run live:prepare`);
}

/**
 * An arm64 guest behind `arm-smmuv3,accel=on`. Its function interrupts by its pin: without KVM QEMU sends an MSI to the address
 * the guest wrote, which is one behind the SMMU, and it is lost.
 */
export function bootArm64Vfio(o: VfioGuestOptions & { readonly ats: boolean }): Promise<VfioRun> {
  const bios = armFirmware();
  return bootVfio({
    ...o,
    arch: 'arm64',
    bdf: BDF,
    append: `console=ttyAMA0 ${KERNEL} pci=nomsi`,
    places: [PLACE],
    preload: [preloadLibrary('libaccel-tcg.so')],
    qemu: (at) => {
      const flag = (name: string, address: string) => {
        writeFileSync(at(name), '1');
        return ['-device', `loader,file=${at(name)},addr=${address},force-raw=on`];
      };
      return [
        ...['-M', 'virt,gic-version=3,iommu=none', '-cpu', 'max,sve=off,pauth=off', '-m', '512M', '-bios', bios],
        ...flag('viommu-kvm-on', '0x5f000000'),
        ...['-device', `arm-smmuv3,primary-bus=pcie.0,id=smmu0,accel=on,ats=${o.ats ? 'on' : 'off'}`],
        ...flag('viommu-kvm-off', '0x5f001000'),
      ];
    },
  });
}
