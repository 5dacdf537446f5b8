#!/usr/bin/env node
import { main } from './cli/main.ts';
import { COMMANDS } from './commands/index.ts';

await main(COMMANDS, process.argv.slice(2));
