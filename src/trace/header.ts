import { Fields, type Place, type Raw } from './fields.ts';

/** Which vIOMMU a recording is of. */
export type IommuKind = 'smmuv3' | 'vtd';

/** One function of the recorded machine, as the guest's sysfs showed it before the workload began. */
export interface TraceDevice {
  /** The function's name in the recorder's command line. */
  readonly name: string;
  /** Requester id, bus << 8 | devfn. */
  readonly sid: number;
  /** `domain:bus:device.function` as the guest names it. */
  readonly bdf: string;
  /** The guest's driver; null: none was bound. */
  readonly driver: string | null;
  /** Type of its IOMMU domain in the guest's sysfs; null when that was not read. */
  readonly domainType: string | null;
  /** The guest had ATS enabled. */
  readonly ats: boolean;
  /** It sends page requests. */
  readonly pri?: boolean;
}

/** The first line of a recording: which machine it is of. */
export interface TraceHeader {
  /** Which vIOMMU. */
  readonly iommu: IommuKind;
  /** QEMU's command line: the IOMMU's properties are in its `-M` and `-device` words. */
  readonly cmdline: string;
  /** The guest's kernel as it names itself; '' when the recording does not say. */
  readonly guestKernel: string;
  /** What the guest did; '' when the recording does not say. */
  readonly scenario: string;
  /** How many commands of each kind QEMU says it executed; null when the recording does not say. */
  readonly commands: ReadonlyMap<string, number> | null;
  /** The register window in guest-physical space (bytes). */
  readonly mmio: { readonly base: number; readonly size: number };
  /** Guest RAM in guest-physical space (bytes), in pieces that do not overlap. */
  readonly ram: readonly { readonly gpa: number; readonly size: number }[];
  /** The functions behind the vIOMMU. */
  readonly devices: readonly TraceDevice[];
  /** `memory`: guest memory was not recorded (imported logs); such a recording cannot be replayed. Absent: nothing is missing. */
  readonly lacks?: readonly 'memory'[];
}

/** Whether guest memory was recorded; without it (imported logs) nothing can be replayed or judged. */
export function hasMemory(header: Pick<TraceHeader, 'lacks'>): boolean {
  return header.lacks?.includes('memory') !== true;
}

function optionalText(f: Fields, key: string): string {
  return f.has(key) ? f.text(key) : '';
}

function parseCommands(f: Fields): ReadonlyMap<string, number> | null {
  if (!f.has('commands')) return null;
  const raw = f.object('commands');
  const counts = new Map<string, number>();
  const g = new Fields(f.place).of(raw);
  for (const name of Object.keys(raw)) counts.set(name, g.int(name, 0, Number.MAX_SAFE_INTEGER));
  return counts;
}

function objects(f: Fields, key: string): Fields[] {
  return f.list(key).map((entry, n) => {
    if (typeof entry !== 'object' || entry === null) throw f.place.error(`"${key}"[${n}]: expected an object`);
    return new Fields(f.place).of(entry as Raw);
  });
}

/** Largest region of RAM a replay can lay out: one array of words. What the guest never touches costs nothing. */
const MOST_RAM = 2 ** 33;

function parseRam(f: Fields, wanted: boolean): TraceHeader['ram'] {
  const ram = objects(f, 'ram').map((r) => ({ gpa: r.address('gpa'), size: r.address('size') }));
  if (wanted && ram.length === 0) throw f.wrong('ram', 'at least one region');
  const sorted = ram.toSorted((a, b) => a.gpa - b.gpa);
  for (const [n, r] of sorted.entries()) {
    const next = sorted[n + 1];
    if (r.size === 0 || r.gpa % 4096 !== 0 || r.size % 4096 !== 0) throw f.wrong('ram', 'whole pages');
    if (r.size > MOST_RAM) throw f.wrong('ram', `regions of at most ${MOST_RAM / 2 ** 30} GiB`);
    if (next !== undefined && next.gpa < r.gpa + r.size) throw f.wrong('ram', 'regions that do not overlap');
  }
  return ram;
}

function parseDevices(f: Fields): TraceDevice[] {
  if (!f.has('devices')) return [];
  return objects(f, 'devices').map((d) => ({
    name: d.text('name'),
    sid: d.int('sid', 0, 0xffff),
    bdf: optionalText(d, 'bdf'),
    driver: d.has('driver') ? d.text('driver') : null,
    domainType: d.has('domainType') ? d.text('domainType') : null,
    ats: d.has('ats') && d.flag('ats'),
    pri: d.has('pri') && d.flag('pri'),
  }));
}

function parseLacks(f: Fields): readonly 'memory'[] {
  const lacks = f.has('lacks') ? f.list('lacks') : [];
  if (lacks.some((what) => what !== 'memory')) throw f.wrong('lacks', 'a list with "memory" or nothing in it');
  return lacks.length === 0 ? [] : ['memory'];
}

/** @throws ViommuError `E_TRACE_FORMAT`; `E_VERSION`-worthy differences say which version was found. */
export function parseHeader(raw: Raw, place: Place): TraceHeader {
  const f = new Fields(place).of(raw);
  if (raw.t !== 'header') throw f.wrong('t', '"header" (the first line of a recording)');
  if (raw.format !== 'viommu-trace') throw f.wrong('format', '"viommu-trace"');
  if (raw.version !== 1) throw f.wrong('version', '1 (the only version known here)');
  const iommu = f.text('iommu');
  if (iommu !== 'smmuv3' && iommu !== 'vtd') throw f.wrong('iommu', '"smmuv3" or "vtd"');
  const lacks = parseLacks(f);
  const source = new Fields(place).of(f.object('source'));
  const mmio = new Fields(place).of(f.object('mmio'));
  const window = { base: mmio.address('base'), size: mmio.address('size') };
  if (window.size < 0x230 || window.size > 0x100_0000) throw mmio.wrong('size', 'a register window');
  return {
    iommu,
    cmdline: source.text('cmdline'),
    guestKernel: optionalText(source, 'guestKernel'),
    scenario: optionalText(source, 'scenario'),
    commands: parseCommands(source),
    mmio: window,
    ram: parseRam(f, lacks.length === 0),
    devices: parseDevices(f),
    ...(lacks.length === 0 ? {} : { lacks }),
  };
}
