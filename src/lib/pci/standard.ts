import { ACS_CAP, AER_CAP, ARI_CAP, CAP, EXT, PCIE, PORT } from '../../spec/pcie/capabilities.ts';
import { COMMAND, HEADER } from '../../spec/pcie/header.ts';
import type { ConfigSpace } from './config-space.ts';

/** What a PCI Express capability says of its function. */
export interface PcieOptions {
  /** PORT value. */
  readonly port: number;
  /** A port with a slot behind it (default: no). */
  readonly slot?: boolean;
  /** Functions come and go in the slot (default: no). */
  readonly hotplug?: boolean;
  /** Function level reset: called when software asks for one. */
  readonly onFlr?: () => void;
}

/** The PCI Express capability (version 2). @returns its offset. */
export function addPcie(config: ConfigSpace, options: PcieOptions): number {
  const at = config.addCapability(CAP.PCIE, PCIE.BYTES);
  const slot = options.slot === true;
  config.preset(at + PCIE.CAP, 2, 2 | (options.port << 4) | (slot ? 0x100 : 0));
  const endpoint = options.port === PORT.ENDPOINT || options.port === PORT.INTEGRATED;
  // Role-based error reporting is mandatory; 256-byte payloads.
  config.preset(at + PCIE.DEVCAP, 4, 0x8001 | (endpoint && options.onFlr ? PCIE.DEVCAP_FLR : 0));
  config.writable(at + PCIE.DEVCTL, 2, 0x7fff);
  config.preset(at + PCIE.DEVCTL, 2, 0x2810);
  config.clearable(at + PCIE.DEVSTA, 2, 0xf);
  if (options.port !== PORT.INTEGRATED) {
    config.preset(at + PCIE.LNKCAP, 4, 0x0010_0011);
    config.writable(at + PCIE.LNKCTL, 2, 0x0ff3);
    config.preset(at + PCIE.LNKSTA, 2, 0x0011);
  }
  if (slot) {
    // Commands are done at once and nothing says so: without the last bit a driver waits for that.
    const hot = PCIE.SLTCAP_HOTPLUG | PCIE.SLTCAP_SURPRISE | PCIE.SLTCAP_ATTENTION | PCIE.SLTCAP_NO_COMPLETED;
    config.preset(at + PCIE.SLTCAP, 4, options.hotplug === true ? hot : 0);
    config.writable(at + PCIE.SLTCTL, 2, 0x1fff);
    config.clearable(at + PCIE.SLTSTA, 2, 0x011f);
  }
  if (options.port === PORT.ROOT) {
    config.writable(at + PCIE.RTCTL, 2, 0x1f);
    config.clearable(at + PCIE.RTSTA, 4, 0x1_0000);
  }
  // End-to-end TLP prefixes: Linux turns PASID on only where every hop has the bit.
  config.preset(at + PCIE.DEVCAP2, 4, PCIE.DEVCAP2_TLP_PREFIX | (slot ? PCIE.DEVCAP2_ARI : 0));
  config.writable(at + PCIE.DEVCTL2, 2, slot ? PCIE.DEVCTL2_ARI : 0);
  const flr = options.onFlr;
  if (flr !== undefined) {
    // The bit reads as zero: it never becomes writable storage.
    config.writable(at + PCIE.DEVCTL, 2, 0xffff);
    config.watch(at + PCIE.DEVCTL, 2, (_, now) => {
      if ((now & PCIE.DEVCTL_FLR) === 0) return;
      config.set(at + PCIE.DEVCTL, 2, now & ~PCIE.DEVCTL_FLR);
      flr();
    });
  }
  return at;
}

/** Access control services. @param bits what the port can do. @returns its offset. */
export function addAcs(config: ConfigSpace, bits: number): number {
  const at = config.addExtended(EXT.ACS, 1, ACS_CAP.BYTES);
  config.preset(at + ACS_CAP.CAP, 2, bits);
  config.writable(at + ACS_CAP.CONTROL, 2, bits);
  return at;
}

/** Alternative routing ids. @param next function number of the next function, 0 for none. */
export function addAri(config: ConfigSpace, next: number): number {
  const at = config.addExtended(EXT.ARI, 1, ARI_CAP.BYTES);
  config.preset(at + ARI_CAP.CAP, 2, next << 8);
  return at;
}

const UNCORRECTABLE = 0x02ff_f030;

/** Advanced error reporting. @param root with the root port's command and status. */
export function addAer(config: ConfigSpace, root: boolean): number {
  const at = config.addExtended(EXT.AER, 2, AER_CAP.BYTES);
  config.clearable(at + AER_CAP.UNCORRECTABLE, 4, UNCORRECTABLE);
  config.changing(at + AER_CAP.CONTROL, 4, 0x1f);
  config.writable(at + AER_CAP.UNCORRECTABLE_MASK, 4, UNCORRECTABLE);
  config.preset(at + AER_CAP.UNCORRECTABLE_SEVERITY, 4, 0x0046_2030);
  config.writable(at + AER_CAP.UNCORRECTABLE_SEVERITY, 4, UNCORRECTABLE);
  config.clearable(at + AER_CAP.CORRECTABLE, 4, 0xf1c1);
  config.preset(at + AER_CAP.CORRECTABLE_MASK, 4, AER_CAP.ADVISORY);
  config.writable(at + AER_CAP.CORRECTABLE_MASK, 4, 0xf1c1);
  if (root) {
    config.writable(at + AER_CAP.ROOT_COMMAND, 4, 7);
    config.changing(at + AER_CAP.SOURCE + 2, 2, 0xffff);
    config.changing(at + AER_CAP.ROOT_STATUS, 4, 0x7f);
    config.clearable(at + AER_CAP.ROOT_STATUS, 4, 0x7f);
  }
  return at;
}

/**
 * Records an uncorrectable error: the status bit, and the number of the first error while none is pending.
 * @returns whether it is masked.
 */
export function recordError(config: ConfigSpace, at: number, status: number): boolean {
  if (at === 0 || status === 0) return true;
  const before = config.get(at + AER_CAP.UNCORRECTABLE, 4);
  config.set(at + AER_CAP.UNCORRECTABLE, 4, (before | status) >>> 0);
  const masked = (config.get(at + AER_CAP.UNCORRECTABLE_MASK, 4) & status) !== 0;
  if (before === 0 && !masked) {
    const control = config.get(at + AER_CAP.CONTROL, 4) & ~0x1f;
    config.set(at + AER_CAP.CONTROL, 4, control | (31 - Math.clz32(status)));
  }
  return masked;
}

/**
 * Notes a detected error in Device Status.
 * @param pcie of the PCI Express capability. @returns whether software wants a message about it (PCIe §6.2.5).
 */
export function announcesError(config: ConfigSpace, pcie: number, fatal: boolean): boolean {
  const bit = fatal ? PCIE.DEVSTA_FATAL : PCIE.DEVSTA_NONFATAL;
  config.set(pcie + PCIE.DEVSTA, 2, config.get(pcie + PCIE.DEVSTA, 2) | bit);
  // The reporting enables of Device Control are the same bits as the detected bits of Device Status.
  const enabled = (config.get(pcie + PCIE.DEVCTL, 2) & bit) !== 0;
  return enabled || (config.get(HEADER.COMMAND, 2) & COMMAND.SERR) !== 0;
}

/**
 * Root Error Status of an ERR_FATAL or ERR_NONFATAL message; the source of the first one stays (PCIe §7.8.4.10).
 * @param at the AER capability of a root port. @param rid of the sender.
 */
export function receiveError(config: ConfigSpace, at: number, rid: number, fatal: boolean): void {
  let status = config.get(at + AER_CAP.ROOT_STATUS, 4) | (fatal ? AER_CAP.ROOT_FATAL : AER_CAP.ROOT_NONFATAL);
  if ((status & AER_CAP.ROOT_UNCORRECTABLE) !== 0) status |= AER_CAP.ROOT_MULTIPLE;
  else {
    if (fatal) status |= AER_CAP.ROOT_FIRST_FATAL;
    config.set(at + AER_CAP.SOURCE + 2, 2, rid);
  }
  config.set(at + AER_CAP.ROOT_STATUS, 4, status | AER_CAP.ROOT_UNCORRECTABLE);
}
