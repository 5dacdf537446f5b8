export interface QmpTarget {
  reset(): void;
  quit(): void;
}

/** Machine types `query-machines` names. */
const MACHINES = [
  { name: 'none', 'cpu-max': 1 },
  { name: 'virt', 'cpu-max': 512 },
  { name: 'q35', 'cpu-max': 255, alias: 'q35' },
];

const TYPES = ['iommu-testdev', 'arm-smmuv3', 'intel-iommu', 'pcie-root-port', 'pxb-pcie'];

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

/** The part of QMP test programs use. Texts are without line end. */
export class QmpSession {
  readonly #target: QmpTarget;

  constructor(target: QmpTarget) {
    this.#target = target;
  }

  greeting(): string {
    return JSON.stringify({ QMP: { version: VERSION, capabilities: ['oob'] } });
  }

  /** @returns the lines to send: events first, then the reply. */
  execute(text: string): string[] {
    if (text.trim() === '') return [];
    let request: { execute?: unknown; id?: unknown; arguments?: unknown };
    try {
      request = JSON.parse(text);
    } catch {
      return [this.#error('GenericError', 'JSON parse error, invalid input')];
    }
    if (request === null || typeof request !== 'object' || typeof request.execute !== 'string') {
      return [this.#error('GenericError', "QMP input lacks member 'execute'")];
    }
    const id = request.id === undefined ? {} : { id: request.id };
    const reply = (value: unknown) => JSON.stringify({ return: value, ...id });
    switch (request.execute) {
      case 'qmp_capabilities':
        return [reply({})];
      case 'query-version':
        return [reply(VERSION)];
      case 'query-commands':
        return [reply(COMMANDS.map((name) => ({ name })))];
      case 'query-machines':
        return [reply(MACHINES)];
      case 'query-name':
        return [reply({})];
      case 'query-status':
        return [reply({ running: true, status: 'running' })];
      case 'qom-list-types':
        return [reply(TYPES.map((name) => ({ name, parent: 'device' })))];
      case 'system_reset':
        this.#target.reset();
        return [event('RESET', { guest: false, reason: 'host-qmp-system-reset' }), reply({})];
      case 'quit':
        this.#target.quit();
        return [reply({})];
      default:
        return [this.#error('CommandNotFound', `The command ${request.execute} has not been found`, id)];
    }
  }

  #error(kind: string, desc: string, id: object = {}): string {
    return JSON.stringify({ error: { class: kind, desc }, ...id });
  }
}

function event(name: string, data: object): string {
  // Virtual machines have no wall clock: the time stamp is a valid one that says "unknown".
  return JSON.stringify({ timestamp: { seconds: -1, microseconds: -1 }, event: name, data });
}
