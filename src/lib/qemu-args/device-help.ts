/** One property of a device as QEMU's `-device DEVICE,help` shows it. */
export interface PropertyHelp {
  /** Its name on a command line. */
  readonly name: string;
  /** Its type in QEMU's words: bool, uint8, OnOffAuto … */
  readonly type: string;
  /** What it is for; absent: QEMU says nothing. */
  readonly about?: string;
  /** Its default; absent: QEMU shows none. */
  readonly value?: string;
}

/** Where QEMU puts what follows name and type. */
const COLUMN = 24;

function line({ name, type, about, value }: PropertyHelp): string {
  const head = `  ${name}=<${type}>`;
  if (about === undefined && value === undefined) return head;
  return `${head.padEnd(COLUMN)} - ${about ?? ''}${value === undefined ? '' : ` (default: ${value})`}`;
}

/** The text of `-device DEVICE,help` in QEMU's form: a line for each property, sorted. */
export function deviceHelp(device: string, properties: readonly PropertyHelp[]): string {
  return `${device} options:\n${properties.map(line).sort().join('\n')}\n`;
}
