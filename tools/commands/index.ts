import { makeReplayMachine } from '../../src/machine/replay.ts';
import type { Command } from '../cli/command.ts';
import { demoCommand } from './demo.ts';
import { explainCommand } from './explain.ts';
import { exportCommand } from './export.ts';
import { importCommand } from './import.ts';
import { iommufdCommand } from './iommufd.ts';
import { replayCommand } from './replay.ts';
import { sanitizeCommand } from './sanitize.ts';

/** Every verb of the program, in the order `viommu help` lists them. */
export const COMMANDS: readonly Command[] = [
  demoCommand(makeReplayMachine),
  replayCommand(makeReplayMachine),
  explainCommand(makeReplayMachine),
  exportCommand(makeReplayMachine),
  importCommand,
  sanitizeCommand(makeReplayMachine),
  iommufdCommand,
];
