import { MachineObserver } from '../../src/machine/observer.ts';
import type { Tell } from '../../src/ports/tell.ts';

/** Counts what the machine says it does. */
export class Counter {
  readonly observer = new MachineObserver();
  readonly commands = new Map<string, number>();
  readonly host = new Map<string, number>();

  constructor() {
    const count = (into: Map<string, number>, name: string) => into.set(name, (into.get(name) ?? 0) + 1);
    this.observer.events.on('command', (said) => count(this.commands, said.name));
    this.observer.events.on('host', (said) => count(this.host, said.verb));
  }

  get tell(): Tell {
    return this.observer.tell;
  }
  command(name: string): number {
    return this.commands.get(name) ?? 0;
  }
  verb(name: string): number {
    return this.host.get(name) ?? 0;
  }
  summary(): string {
    return [...this.commands].map(([name, n]) => `${name.replace('SMMU_CMD_', '')} ${n}`).join(', ');
  }
}
