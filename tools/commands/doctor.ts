import { type Command, EXIT } from '../cli/verb.ts';
import { look, thisInstaller } from '../doctor/look.ts';
import { OPTIONAL } from '../doctor/tools.ts';

/** `viommu doctor`. */
export const doctorCommand: Command = {
  name: 'doctor',
  summary: 'which optional things are installed, and how to get each that is not',
  about: `Looks for everything that some command uses if it is there, and says for each that is missing the command that gets it. Nothing
is installed, and nothing of it is needed to replay, explain, sanitize or export recordings.`,
  notes: 'Exit status: 0, whatever is missing.',
  examples: ['viommu doctor', 'viommu doctor --json | jq -r "select(.found == null) | .get"'],
  declare() {},
  async run(_args, _values, io) {
    const installed = thisInstaller();
    const all = OPTIONAL.map((o) => {
      io.progress(`looking for ${o.name}`);
      return look(o, installed);
    });
    const node = { name: 'node', for: 'all of it', found: process.version, get: 'https://nodejs.org' };
    if (io.json) {
      for (const l of [node, ...all]) io.out(JSON.stringify(l));
      return EXIT.OK;
    }
    const rows = [node, ...all].map((l) => [l.name, l.found === null ? 'missing' : 'ok', l.found ?? l.get, l.for]);
    const widths = [0, 1, 2].map((n) => Math.max(...rows.map((r) => r[n]!.length)));
    for (const [name, state, what, why] of rows) {
      const padded = state!.padEnd(widths[1]!);
      const painted = io.paint(state === 'ok' ? 'green' : 'yellow', padded);
      io.out(`${name!.padEnd(widths[0]!)}  ${painted}  ${what!.padEnd(widths[2]!)}  ${why}`);
    }
    return EXIT.OK;
  },
};
