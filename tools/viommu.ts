#!/usr/bin/env node
import { type Io, runCommand } from './cli/command.ts';
import { COMMANDS } from './commands/index.ts';

// A reader that went away (`viommu … | head`) is no reason for a stack trace.
process.stdout.on('error', () => process.exit(1));

const io: Io = {
  out: (line) => void process.stdout.write(`${line}\n`),
  err: (line) => void process.stderr.write(`${line}\n`),
};

process.exitCode = await runCommand(COMMANDS, process.argv.slice(2), io);
