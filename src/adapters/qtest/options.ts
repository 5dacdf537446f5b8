import { ViommuError } from '../../core/errors.ts';
import { parseOption, parseQemuArgs, type QemuArgs } from '../../lib/qemu-args/qemu-args.ts';

/** A stream a server talks on. */
export interface Channel {
  /** Path of the socket. */
  readonly path: string;
  /** We listen and the client connects, instead of the other way round. */
  readonly listen: boolean;
}

/** What a command line asks a qtest server for. */
export interface ServerOptions {
  /** Where the qtest protocol is spoken; null: not at all. */
  readonly qtest: Channel | null;
  /** Where requests and replies are logged; null: nowhere. */
  readonly log: string | null;
  /** Where QMP is spoken; null: not at all. */
  readonly qmp: Channel | null;
  /** The machine the command line describes. */
  readonly machine: QemuArgs;
  /** A network card is asked for, as QEMU's default is. */
  readonly nic: boolean;
  /** A display adapter is asked for, as QEMU's default is. */
  readonly vga: boolean;
  /** `-help`: print the help and exit. */
  readonly help: boolean;
  /** `-device KIND,help`: print what the device's properties are and exit; `-device help`: the devices. Null: not asked for. */
  readonly deviceHelp: string | null;
  /** `-version`: print the version and exit. */
  readonly version: boolean;
}

function usage(what: string): ViommuError {
  return new ViommuError('E_USAGE', 'caller', what);
}

/** `unix:PATH[,server=on][,wait=off]` and the options of `-chardev socket`. */
function channel(text: string, option: string): Channel {
  const parsed = parseOption(text, 'path');
  const path = parsed.kind.startsWith('unix:') ? parsed.kind.slice(5) : parsed.props.get('path');
  if (path === undefined || path === '') throw usage(`${option} ${text}: only unix sockets: unix:PATH`);
  const server = parsed.props.get('server');
  return { path, listen: server === 'on' || server === 'yes' };
}

function chardev(text: string): readonly [id: string, Channel] | null {
  const [backend, ...rest] = text.split(',');
  if (backend !== 'socket') return null;
  const props = parseOption(rest.join(','), '').props;
  const path = props.get('path');
  const id = props.get('id');
  if (path === undefined || id === undefined) throw usage(`-chardev ${text}: needs path and id`);
  const server = props.get('server') ?? (rest.includes('server') ? 'on' : 'off');
  return [id, { path, listen: server === 'on' }];
}

/**
 * The part of QEMU's command line a qtest server needs. Options it does not know are passed over.
 * @throws ViommuError `E_USAGE`, `E_PROFILE` for what it knows and cannot use.
 */
export function parseServerOptions(args: readonly string[]): ServerOptions {
  const chardevs = new Map<string, Channel>();
  let qtest: Channel | null = null;
  let qmp: Channel | null = null;
  let log: string | null = null;
  let monitor: string | null = null;
  let defaults = true;
  let nic = true;
  let vga = true;
  args.forEach((arg, i) => {
    const value = args[i + 1] ?? '';
    switch (arg.startsWith('-') ? arg.replace(/^--?/, '') : '') {
      case 'qtest':
        qtest = channel(value, arg);
        break;
      case 'qtest-log':
        log = value === '/dev/null' || value === 'none' ? null : value;
        break;
      case 'qmp':
        qmp = channel(value, arg);
        break;
      case 'chardev': {
        const c = chardev(value);
        if (c !== null) chardevs.set(c[0], c[1]);
        break;
      }
      case 'mon':
        monitor = parseOption(value, 'chardev').kind || (parseOption(value, '').props.get('chardev') ?? null);
        break;
      case 'object':
        if (value.startsWith('monitor-qmp')) monitor = parseOption(value, '').props.get('chardev') ?? null;
        break;
      case 'net':
      case 'nic':
        nic &&= value.split(',')[0] !== 'none';
        break;
      case 'netdev':
        nic = false;
        break;
      case 'vga':
        vga = value !== 'none';
        break;
      case 'nodefaults':
        defaults = false;
        break;
    }
  });
  if (monitor !== null) {
    qmp = chardevs.get(monitor) ?? null;
    if (qmp === null) throw usage(`chardev '${monitor}' of the monitor is not a socket that was defined`);
  }
  const has = (...names: string[]) => args.some((a) => names.includes(a.replace(/^--?/, '')) && a.startsWith('-'));
  const machine = parseQemuArgs(args);
  const asked = machine.devices.find(
    (d) => d.kind === 'help' || d.kind === '?' || d.props.has('help') || d.props.has('?'),
  );
  return {
    qtest,
    log,
    qmp,
    machine,
    deviceHelp: asked === undefined ? null : asked.kind,
    nic: nic && defaults,
    vga: vga && defaults,
    help: has('help', 'h'),
    version: has('version'),
  };
}
