/** What QMP commands act on. */
export interface QmpTarget {
  /** `system_reset`. */
  reset(): void;
  /** `quit`. */
  quit(): void;
}

/** Machine types `query-machines` names. */
const MACHINES = [
  { name: 'none', 'cpu-max': 1 },
  { name: 'virt', 'cpu-max': 512 },
  { name: 'q35', 'cpu-max': 255, alias: 'q35' },
];

/** Device types with what they descend from, nearest first; `device` and `object` end every line. */
const LINES = [
  ['iommu-testdev', 'pci-device'],
  ['arm-smmuv3', 'arm-smmu', 'sys-bus-device'],
  ['intel-iommu', 'x86-iommu', 'dynamic-sysbus-device', 'sys-bus-device'],
  ['pcie-root-port', 'pcie-root-port-base', 'pcie-slot', 'pcie-port', 'base-pci-bridge', 'pci-device'],
  ['pxb-pcie', 'pxb', 'pci-device'],
].map((line) => [...line, 'device', 'object']);

const COMMANDS = [
  'qmp_capabilities',
  'query-commands',
  'query-machines',
  'query-name',
  'query-status',
  'query-version',
  'qom-list-types',
  'quit',
  'system_reset',
];

const VERSION = { qemu: { micro: 3, minor: 1, major: 11 }, package: '' };

/** Command → type of each argument it may have, in the order QEMU looks at them. */
const ARGUMENTS: Readonly<Record<string, Readonly<Record<string, 'array' | 'string' | 'boolean'>>>> = {
  qmp_capabilities: { enable: 'array' },
  'qom-list-types': { implements: 'string', abstract: 'boolean' },
};

type Json = Record<string, unknown>;

function isObject(value: unknown): value is Json {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}

/** An answer that is an error: QEMU's class and words. */
class Refusal {
  readonly kind: 'GenericError' | 'CommandNotFound';
  readonly desc: string;

  constructor(desc: string, kind: 'GenericError' | 'CommandNotFound' = 'GenericError') {
    this.desc = desc;
    this.kind = kind;
  }
}

/** The part of QMP test programs use; what is refused is refused as QEMU 11.1.3 refuses it. Texts are without line end. */
export class QmpSession {
  readonly #target: QmpTarget;
  /** Commands are for a client that has said `qmp_capabilities`, once. */
  #negotiated = false;
  #oob = false;

  constructor(target: QmpTarget) {
    this.#target = target;
  }

  /** What a client hears first. The negotiation begins anew. */
  greeting(): string {
    this.#negotiated = this.#oob = false;
    return JSON.stringify({ QMP: { version: VERSION, capabilities: ['oob'] } });
  }

  /** @returns the lines to send: events first, then the reply. */
  execute(text: string): string[] {
    if (text.trim() === '') return [];
    let request: unknown;
    try {
      request = JSON.parse(text);
    } catch {
      return [refused(new Refusal('JSON parse error, invalid input'), {})];
    }
    const id = isObject(request) && request.id !== undefined ? { id: request.id } : {};
    const events: string[] = [];
    const value = this.#run(request, events);
    return [...events, value instanceof Refusal ? refused(value, id) : JSON.stringify({ return: value, ...id })];
  }

  /** The command's name, when the request is one. */
  #command(request: unknown): { readonly name: string; readonly args: Json; readonly oob: boolean } | Refusal {
    if (!isObject(request)) return new Refusal('QMP input must be a JSON object');
    let key = '';
    // Of the two, QEMU meets exec-oob first.
    const members = Object.entries(request).sort(([a], [b]) => Number(b === 'exec-oob') - Number(a === 'exec-oob'));
    for (const [member, value] of members) {
      if (member === 'execute' || (member === 'exec-oob' && this.#oob)) {
        if (typeof value !== 'string') return new Refusal(`QMP input member '${member}' must be a string`);
        if (key !== '') return new Refusal(`QMP input member '${member}' clashes with '${key}'`);
        key = member;
      } else if (member === 'arguments') {
        if (!isObject(value)) return new Refusal("QMP input member 'arguments' must be an object");
      } else if (member !== 'id') return new Refusal(`QMP input member '${member}' is unexpected`);
    }
    if (key === '') return new Refusal("QMP input lacks member 'execute'");
    return { name: request[key] as string, args: (request.arguments ?? {}) as Json, oob: key === 'exec-oob' };
  }

  #run(request: unknown, events: string[]): unknown {
    const command = this.#command(request);
    if (command instanceof Refusal) return command;
    const { name, args, oob } = command;
    if (!this.#negotiated && name !== 'qmp_capabilities') {
      return new Refusal("Expecting capabilities negotiation with 'qmp_capabilities'", 'CommandNotFound');
    }
    if (!COMMANDS.includes(name)) return new Refusal(`The command ${name} has not been found`, 'CommandNotFound');
    if (oob) return new Refusal(`The command ${name} does not support OOB`);
    const wrong = wrongArgument(name, args);
    if (wrong !== null) return wrong;
    switch (name) {
      case 'qmp_capabilities':
        return this.#negotiate(args);
      case 'query-version':
        return VERSION;
      case 'query-commands':
        return COMMANDS.map((name) => ({ name }));
      case 'query-machines':
        return MACHINES;
      case 'query-status':
        return { running: true, status: 'running' };
      case 'qom-list-types':
        return LINES.filter((line) => args.implements === undefined || line.includes(args.implements as string)).map(
          ([name, parent]) => ({ name, parent }),
        );
      case 'system_reset':
        this.#target.reset();
        events.push(event('RESET', { guest: false, reason: 'host-qmp-system-reset' }));
        return {};
      case 'quit':
        this.#target.quit();
        return {};
      default:
        return {};
    }
  }

  #negotiate(args: Json): unknown {
    if (this.#negotiated) {
      return new Refusal('Capabilities negotiation is already complete, command ignored', 'CommandNotFound');
    }
    this.#negotiated = true;
    this.#oob = ((args.enable ?? []) as readonly unknown[]).length > 0;
    return {};
  }
}

/** The first argument QEMU stumbles over: those it knows in its order, then those it does not. */
function wrongArgument(command: string, args: Json): Refusal | null {
  const known = ARGUMENTS[command] ?? {};
  for (const [name, type] of Object.entries(known)) {
    const value = args[name];
    if (value === undefined) continue;
    const is = Array.isArray(value) ? 'array' : typeof value;
    if (is !== type) return new Refusal(`Invalid parameter type for '${name}', expected: ${type}`);
    for (const [i, element] of (type === 'array' ? (value as unknown[]) : []).entries()) {
      if (typeof element !== 'string')
        return new Refusal(`Invalid parameter type for '${name}[${i}]', expected: string`);
      // The only list is of capabilities, and the name in QEMU's message is null there too.
      if (element !== 'oob') return new Refusal(`Parameter 'null' does not accept value '${element}'`);
    }
  }
  const unknown = Object.keys(args).find((name) => !Object.hasOwn(known, name));
  return unknown === undefined ? null : new Refusal(`Parameter '${unknown}' is unexpected`);
}

function refused(why: Refusal, id: object): string {
  return JSON.stringify({ error: { class: why.kind, desc: why.desc }, ...id });
}

function event(name: string, data: object): string {
  // Virtual machines have no wall clock: the time stamp is a valid one that says "unknown".
  return JSON.stringify({ timestamp: { seconds: -1, microseconds: -1 }, event: name, data });
}
