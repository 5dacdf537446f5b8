import { type Command, type Io, runCommand } from '../../tools/cli/command.ts';

export interface Ran {
  readonly status: number;
  readonly out: string[];
  readonly err: string[];
}

/** Runs `viommu ARGS` in this process. */
export async function viommu(commands: readonly Command[], args: readonly string[]): Promise<Ran> {
  const out: string[] = [];
  const err: string[] = [];
  const io: Io = { out: (line) => void out.push(line), err: (line) => void err.push(line) };
  return { status: await runCommand(commands, args, io), out, err };
}
