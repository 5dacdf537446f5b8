import type { Said, Tell } from '../../src/ports/tell.ts';
import { Counter } from '../live/counter.ts';

type HostSaid = Extract<Said, { what: 'host' }>;
type CommandSaid = Extract<Said, { what: 'command' }>;

/** Keeps what a run does, in order: the guest's commands and what they became on the host. */
export class Journal {
  readonly counter = new Counter();
  readonly host: HostSaid[] = [];
  readonly commands: CommandSaid[] = [];
  /** Hears everything as it happens. */
  onSaid: Tell | null = null;
  readonly tell: Tell = (said) => {
    this.counter.tell(said);
    if (said.what === 'host') this.host.push(said);
    else if (said.what === 'command') this.commands.push(said);
    this.onSaid?.(said);
  };

  /** Host operations of one verb, oldest first, from operation `since` on. */
  verbs(verb: string, since = 0): readonly HostSaid[] {
    return this.host.slice(since).filter((h) => h.verb === verb);
  }

  /** The guest's commands of one name from command `since` on. */
  named(name: string, since = 0): readonly CommandSaid[] {
    return this.commands.slice(since).filter((c) => c.name === name);
  }
}
