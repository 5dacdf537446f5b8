import type { MakeReplayTarget } from '../../src/trace/index.ts';
import type { Command, LaterCommand } from '../cli/command.ts';

/** A command that stands up machines. */
async function onMachines(command: Promise<(make: MakeReplayTarget) => Command>): Promise<Command> {
  const [make, { makeReplayMachine }] = await Promise.all([command, import('../../src/machine/replay.ts')]);
  return make(makeReplayMachine);
}

/** Every verb of the program, in the order `viommu help` lists them. */
export const COMMANDS: readonly LaterCommand[] = [
  {
    name: 'demo',
    summary: 'replay every recording of the package; a table, and the story of one stream',
    load: () => onMachines(import('./demo.ts').then((m) => m.demoCommand)),
  },
  {
    name: 'replay',
    summary: 'replay recorded guests and compare everything with the recording',
    load: () => onMachines(import('./replay.ts').then((m) => m.replayCommand)),
  },
  {
    name: 'explain',
    summary: 'registers, tables, host objects and cached translations at one event of a recording',
    load: () => onMachines(import('./explain.ts').then((m) => m.explainCommand)),
  },
  {
    name: 'open',
    summary: 'recordings in the trace explorer, a page in your browser',
    load: () => import('./open.ts').then((m) => m.openCommand),
  },
  {
    name: 'export',
    summary: 'a recording as a Perfetto trace, value change dump, CSV or JSON',
    load: () => onMachines(import('./export.ts').then((m) => m.exportCommand)),
  },
  {
    name: 'import',
    summary: "QEMU's -trace log, or plain register accesses, as a recording",
    load: () => import('./import.ts').then((m) => m.importCommand),
  },
  {
    name: 'record',
    summary: "a guest's IOMMU traffic while it runs on QEMU, as a recording that is replayed at once",
    load: () => onMachines(import('./record.ts').then((m) => m.recordCommand)),
  },
  {
    name: 'sanitize',
    summary: 'what a recorded driver did wrong, by name, whatever the caches happened to hold',
    load: () => onMachines(import('./sanitize.ts').then((m) => m.sanitizeCommand)),
  },
  {
    name: 'merge',
    summary:
      'joins what shards of replay, sanitize, fuzz or conformance:qtest wrote with --results, into the verdict of one run',
    load: () => import('./merge.ts').then((m) => m.mergeCommand),
  },
  {
    name: 'iommufd',
    summary: "the host's iommufd alone: replay recorded kernel answers, or serve /dev/iommu on a socket",
    load: () => import('./iommufd.ts').then((m) => m.iommufdCommand),
  },
  {
    name: 'tables',
    summary: 'firmware tables (IORT, DMAR, MCFG, device tree) that tell a guest of a vIOMMU',
    load: () => import('./tables.ts').then((m) => m.tablesCommand),
  },
  {
    name: 'doctor',
    summary: 'which optional things are installed, and how to get each that is not',
    load: () => import('./doctor.ts').then((m) => m.doctorCommand),
  },
  {
    name: 'completion',
    summary: 'a script that makes bash, zsh or fish complete verbs, options and values',
    load: () => import('./completion.ts').then((m) => m.completionCommand(() => COMMANDS)),
  },
];
