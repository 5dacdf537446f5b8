import { ViommuError } from '../../core/errors.ts';

/** One `-device`/`-M` argument: the driver or machine name, then its properties in order of appearance (last one wins). */
export interface QemuOption {
  /** Driver or machine name. */
  readonly kind: string;
  /** Properties by name; an unknown one is kept too. */
  readonly props: ReadonlyMap<string, string>;
}

/** What a QEMU command line says about the machine we stand up; everything else in it is left alone. */
export interface QemuArgs {
  /** `-M`/`-machine`, all of them merged; kind '' when the line names no machine. */
  readonly machine: QemuOption;
  /** Every `-device`, in order. */
  readonly devices: readonly QemuOption[];
  /** `-global driver.prop=value`. */
  readonly globals: readonly { readonly driver: string; readonly prop: string; readonly value: string }[];
  /** `-m` in bytes; QEMU's default is 128 MiB. */
  readonly memory: number;
  /** `-cpu`; '' when the line names none. */
  readonly cpu: string;
}

/** Options that never take an argument, as far as command lines around IOMMUs use them. */
const FLAGS = new Set(
  'S s h nographic no-reboot no-shutdown nodefaults no-user-config snapshot daemonize enable-kvm usb version'.split(
    ' ',
  ),
);

/** Splits as a shell does: blanks separate, quotes and backslashes protect. */
export function splitWords(text: string): string[] {
  const words: string[] = [];
  let word = '';
  let open = false;
  let quote = '';
  for (let i = 0; i < text.length; i++) {
    const c = text[i]!;
    if (quote !== '') {
      if (c === quote) quote = '';
      else word += c === '\\' && quote === '"' && i + 1 < text.length ? text[++i] : c;
    } else if (c === '"' || c === "'") {
      quote = c;
      open = true;
    } else if (c === '\\' && i + 1 < text.length) {
      word += text[++i];
      open = true;
    } else if (/\s/.test(c)) {
      if (open) words.push(word);
      word = '';
      open = false;
    } else {
      word += c;
      open = true;
    }
  }
  if (open) words.push(word);
  return words;
}

/** `kind,key=value,flag,no…`: QEMU's comma syntax; `,,` is a comma inside a value; a bare key means `on`. */
export function parseOption(text: string, impliedKey: string): QemuOption {
  const props = new Map<string, string>();
  let kind = '';
  const parts = text
    .replaceAll(',,', '\0')
    .split(',')
    .map((p) => p.replaceAll('\0', ','));
  parts.forEach((part, i) => {
    const eq = part.indexOf('=');
    const key = eq < 0 ? part : part.slice(0, eq);
    if (eq < 0 && i === 0) kind = part;
    else if (eq >= 0 && key === impliedKey) kind = part.slice(eq + 1);
    else if (key !== '') props.set(key, eq < 0 ? 'on' : part.slice(eq + 1));
  });
  return { kind, props };
}

/** Bytes of `512M`, `1g`, `65536K` …; without a suffix `unit` bytes each. @throws ViommuError `E_PROFILE`. */
export function parseSize(text: string, unit: number): number {
  const m = /^(\d+|0x[0-9a-f]+)([bkmgt]?)$/i.exec(text);
  if (m === null) throw new ViommuError('E_PROFILE', 'caller', 'not a size', { text });
  const scale = { '': unit, b: 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 }[m[2]!.toLowerCase()]!;
  return Number(m[1]) * scale;
}

/** Reads a QEMU command line, with or without the program name in front. Unknown options are passed over. */
export function parseQemuArgs(line: string | readonly string[]): QemuArgs {
  const words = typeof line === 'string' ? splitWords(line) : line;
  const devices: QemuOption[] = [];
  const globals: { driver: string; prop: string; value: string }[] = [];
  const machine = { kind: '', props: new Map<string, string>() };
  let memory = 128 * 2 ** 20;
  let cpu = '';
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!;
    if (!word.startsWith('-')) continue;
    const name = word.replace(/^--?/, '');
    const next = words[i + 1];
    const value = FLAGS.has(name) || next === undefined || next.startsWith('-') ? undefined : next;
    if (value === undefined) continue;
    i++;
    if (name === 'M' || name === 'machine') {
      const option = parseOption(value, 'type');
      if (option.kind !== '') machine.kind = option.kind;
      for (const [k, v] of option.props) machine.props.set(k, v);
    } else if (name === 'device') {
      devices.push(parseOption(value, 'driver'));
    } else if (name === 'm') {
      const option = parseOption(value, 'size');
      if (option.kind !== '') memory = parseSize(option.kind, 2 ** 20);
    } else if (name === 'cpu') {
      cpu = value;
    } else if (name === 'global') {
      const m = /^([^.,=]+)\.([^=]+)=(.*)$/.exec(value);
      if (m !== null) globals.push({ driver: m[1]!, prop: m[2]!, value: m[3]! });
    }
  }
  return { machine, devices, globals, memory, cpu };
}

const TRUE = new Set(['on', 'yes', 'true', 'y', '1']);
const FALSE = new Set(['off', 'no', 'false', 'n', '0']);

/** A QEMU boolean. @throws ViommuError `E_PROFILE`. */
export function parseOnOff(name: string, value: string): boolean {
  if (TRUE.has(value)) return true;
  if (FALSE.has(value)) return false;
  const wanted = `expects 'on' or 'off': property '${name}' is on or off`;
  throw new ViommuError('E_PROFILE', 'caller', `Parameter '${name}' ${wanted}`, { value });
}

/** QEMU's words for a value that is none of those there are. @param wanted those there are. */
export function notAccepted(name: string, value: string, wanted: string): ViommuError {
  const what = `Parameter '${name}' does not accept value '${value}': property '${name}' ${wanted}`;
  return new ViommuError('E_PROFILE', 'caller', what, { value });
}

/** QEMU's OnOffAuto. @returns null: auto. @throws ViommuError `E_PROFILE`. */
export function parseOnOffAuto(name: string, value: string): boolean | null {
  if (value === 'auto') return null;
  if (TRUE.has(value)) return true;
  if (FALSE.has(value)) return false;
  throw notAccepted(name, value, 'is on or off, or auto');
}

/**
 * A decimal or 0x number within [min, max]. @param type QEMU's name of the type, which a number out of range is told.
 * @throws ViommuError `E_PROFILE`.
 */
export function parseInteger(name: string, value: string, min: number, max: number, type = 'integer'): number {
  const number = /^-?(0x[0-9a-f]+|\d+)$/i.test(value);
  const n = number ? Number(value) : Number.NaN;
  if (!(n >= min && n <= max)) {
    const what = `Parameter '${name}' expects ${number ? type : 'integer'}`;
    const range = `property '${name}' is a number from ${min} to ${max}`;
    throw new ViommuError('E_PROFILE', 'caller', `${what}: ${range}`, { value });
  }
  return n;
}

/** Makes something of a `-device`; what is refused is told with the whole option before it, as QEMU tells it. */
export function inDevice<T>(option: QemuOption, make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (!(error instanceof ViommuError)) throw error;
    const text = [option.kind, ...[...option.props].map(([name, value]) => `${name}=${value}`)].join(',');
    throw new ViommuError(error.code, error.blame, `-device ${text}: ${error.message}`, {}, error);
  }
}
