import { ViommuError } from '../core/errors.ts';

/** `driver,key=value,…` */
export interface DeviceText {
  readonly driver: string;
  readonly props: Readonly<Record<string, string>>;
}

/** What of a QEMU command line describes the machine. Options that do not concern it are skipped. */
export interface CommandLine {
  /** Machine type: virt, q35 or none. */
  readonly machine: string;
  readonly machineProps: Readonly<Record<string, string>>;
  /** Bytes of RAM. */
  readonly memory: number;
  readonly devices: readonly DeviceText[];
  /** QEMU's default devices are wanted. */
  readonly nic: boolean;
  readonly vga: boolean;
  /** Options by name, in order, with their value ('' for flags): for whoever needs others. */
  readonly options: readonly (readonly [name: string, value: string])[];
}

/** Options without a value. */
// biome-ignore format: table
const FLAGS = new Set([
  'nodefaults', 'nographic', 'S', 's', 'no-reboot', 'no-shutdown', 'enable-kvm', 'daemonize', 'no-user-config', 'snapshot',
  'no-acpi', 'no-hpet', 'version', 'h', 'help', 'preconfig', 'win2k-hack', 'full-screen', 'no-fd-bootchk', 'only-migratable',
]);

const ALIASES: Readonly<Record<string, string>> = { M: 'machine', qtest: 'qtest' };

/** Splits `a=1,b=2`; a comma is written twice inside a value. The first item may go without a key. */
export function splitProps(text: string, implied: string): Record<string, string> {
  const props: Record<string, string> = {};
  const items = text.replaceAll(',,', '\0').split(',');
  items.forEach((raw, i) => {
    const item = raw.replaceAll('\0', ',');
    if (item === '') return;
    const eq = item.indexOf('=');
    if (eq >= 0) props[item.slice(0, eq)] = item.slice(eq + 1);
    else if (i === 0) props[implied] = item;
    else props[item] = 'on';
  });
  return props;
}

/** `512`, `512M`, `1G`, `size=512M,…`; QEMU's default unit is MiB. @throws ViommuError `E_USAGE` */
export function memorySize(text: string): number {
  const size = splitProps(text, 'size').size ?? '128';
  const m = /^(\d+(?:\.\d+)?)([bkmgtBKMGT]?)$/.exec(size);
  if (m === null) throw new ViommuError('E_USAGE', 'caller', `-m ${text}: not a size`);
  const unit = { b: 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40, '': 2 ** 20 }[m[2]!.toLowerCase()]!;
  const bytes = Math.ceil((Number(m[1]) * unit) / 8192) * 8192;
  if (bytes === 0 || bytes > 2 ** 40) throw new ViommuError('E_USAGE', 'caller', `-m ${text}: not a usable size`);
  return bytes;
}

/** `-device` text, or the JSON form. @throws ViommuError `E_USAGE` */
export function parseDevice(text: string): DeviceText {
  if (text.startsWith('{')) {
    const fail = (cause?: unknown) => new ViommuError('E_USAGE', 'caller', `-device ${text}: not a device`, {}, cause);
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch (e) {
      throw fail(e);
    }
    if (json === null || typeof json !== 'object' || Array.isArray(json)) throw fail();
    const props: Record<string, string> = {};
    for (const [k, v] of Object.entries(json)) props[k] = v === true ? 'on' : v === false ? 'off' : String(v);
    const { driver, ...rest } = props;
    if (driver === undefined) throw fail();
    return { driver, props: rest };
  }
  const { driver, ...props } = splitProps(text, 'driver');
  if (driver === undefined) throw new ViommuError('E_USAGE', 'caller', `-device ${text}: no driver`);
  return { driver, props };
}

/**
 * Reads a QEMU command line (without the program's name).
 * @throws ViommuError `E_USAGE` for what cannot be understood; options of other concerns are kept but not judged.
 */
export function parseCommandLine(args: readonly string[]): CommandLine {
  const options: (readonly [string, string])[] = [];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    if (!arg.startsWith('-')) {
      options.push(['', arg]);
      continue;
    }
    const bare = arg.replace(/^--?/, '');
    const name = ALIASES[bare] ?? bare;
    const next = args[i + 1];
    if (FLAGS.has(name) || next === undefined || (next.startsWith('-') && next.length > 1 && !/^-\d/.test(next))) {
      options.push([name, '']);
    } else {
      options.push([name, next]);
      i++;
    }
  }
  return interpret(options);
}

function interpret(options: readonly (readonly [string, string])[]): CommandLine {
  const machineProps: Record<string, string> = {};
  const devices: DeviceText[] = [];
  let memory = 128 * 2 ** 20;
  let defaults = true;
  let nic = true;
  let vga = true;
  for (const [name, value] of options) {
    switch (name) {
      case 'machine':
        Object.assign(machineProps, splitProps(value, 'type'));
        break;
      case 'm':
        memory = memorySize(value);
        break;
      case 'device':
        devices.push(parseDevice(value));
        break;
      case 'net':
      case 'nic':
      case 'netdev':
        if (value.split(',')[0] === 'none' || name === 'netdev') nic = false;
        break;
      case 'vga':
        vga = value !== 'none';
        break;
      case 'nodefaults':
        defaults = false;
        break;
    }
  }
  const { type, ...rest } = machineProps;
  const machine = (type ?? 'none').replace(/^(?:pc-)?(virt|q35)-\d.*$/, '$1');
  return { machine, machineProps: rest, memory, devices, nic: nic && defaults, vga: vga && defaults, options };
}

/** A boolean as QEMU spells it. @throws ViommuError `E_USAGE` */
export function onOff(text: string, what: string): boolean {
  if (text === 'on' || text === 'yes' || text === 'true' || text === 'y') return true;
  if (text === 'off' || text === 'no' || text === 'false' || text === 'n') return false;
  throw new ViommuError('E_USAGE', 'caller', `${what}=${text}: on or off`);
}
