import { readFileSync, writeFileSync } from 'node:fs';
import { ViommuError } from '../../src/core/errors.ts';
import type { FuzzInput, Step } from './target.ts';

/** An input as it is kept in a file. */
export interface SavedInput {
  readonly target: string;
  readonly seed: number;
  /** Which input of the seed it was cut from. */
  readonly index: number;
  /** What was wrong. */
  readonly error: string;
  readonly input: FuzzInput;
}

/** One step a line: such a file is read, and changed by hand. */
export function writeInput(path: string, saved: SavedInput): void {
  const { input, ...head } = saved;
  const lines = input.steps.map((s) => `    ${JSON.stringify(s)}`).join(',\n');
  const top = JSON.stringify(head, null, 2).slice(0, -2);
  const config = JSON.stringify(input.config);
  writeFileSync(path, `${top},\n  "input": { "config": ${config}, "steps": [\n${lines}\n  ] }\n}\n`);
}

/** @throws ViommuError `EINVAL` the file cannot be read, or is no input. */
export function readInput(path: string): SavedInput {
  try {
    const saved = JSON.parse(readFileSync(path, 'utf8')) as SavedInput;
    const { config, steps } = saved.input;
    if (typeof saved.target !== 'string' || typeof config !== 'object' || !steps.every(isStep)) throw new Error('form');
    return saved;
  } catch (e) {
    throw new ViommuError('EINVAL', 'caller', `${path} is no input of a fuzz target`, {}, e);
  }
}

function isStep(step: unknown): step is Step {
  return Array.isArray(step) && step.every((v) => typeof v === 'string' || typeof v === 'number');
}
