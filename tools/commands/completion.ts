import { type Command, EXIT, type LaterCommand, usageError } from '../cli/verb.ts';
import { SHELLS } from '../completion/shells.ts';
import { completed } from '../completion/verbs.ts';

const NAMES = Object.keys(SHELLS);

/** `viommu completion`. @param commands every verb of the program. */
export function completionCommand(commands: () => readonly LaterCommand[]): Command {
  return {
    name: 'completion',
    summary: 'a script that makes bash, zsh or fish complete verbs, options and values',
    about: `Writes a script that makes a shell complete viommu: verbs, options, the values an option can have, files.

  bash   source <(viommu completion bash), in ~/.bashrc
  zsh    viommu completion zsh > a file _viommu in a folder of $fpath; or source <(viommu completion zsh) after compinit
  fish   viommu completion fish > ~/.config/fish/completions/viommu.fish`,
    notes: 'With --json: the verbs with their options, from which the scripts are made.',
    examples: ['source <(viommu completion bash)', 'viommu completion fish > ~/.config/fish/completions/viommu.fish'],
    declare(parser) {
      const shell = parser.createArgument('<shell>', `one of ${NAMES.join(', ')}`);
      shell.argChoices = NAMES;
      parser.addArgument(shell);
    },
    async run([name = ''], _values, io) {
      const script = Object.hasOwn(SHELLS, name) ? SHELLS[name] : undefined;
      if (script === undefined) throw usageError(`expected one of ${NAMES.join(', ')}, found "${name}"`);
      const verbs = await Promise.all(commands().map(async (c) => completed(await c.load())));
      if (io.json) for (const verb of verbs) io.out(JSON.stringify(verb));
      else io.out(script(verbs).trimEnd());
      return EXIT.OK;
    },
  };
}
