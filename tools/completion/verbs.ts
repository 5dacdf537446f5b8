import { Command as Parser } from 'commander';
import { common, declare } from '../cli/parser.ts';
import type { Command } from '../cli/verb.ts';

/** An option as a shell completes it. */
export interface CompletedOption {
  /** With its dashes. */
  readonly name: string;
  readonly text: string;
  /** What may follow: nothing, one of these words, or a file ('file'), or what nobody can guess ('other'). */
  readonly value: null | readonly string[] | 'file' | 'other';
}

/** A verb as a shell completes it. */
export interface CompletedVerb {
  readonly name: string;
  readonly summary: string;
  readonly options: readonly CompletedOption[];
  /** Words that can be its first argument; empty: files. */
  readonly words: readonly string[];
}

const FILES = /<(file|trace|path|folder|log)>/;

/** What a verb and the common options declare, as data. */
export function completed(command: Command): CompletedVerb {
  const parser = new Parser(command.name);
  declare(parser, command);
  common(parser);
  const options = parser.options.map((o): CompletedOption => {
    const taken = o.required || o.optional;
    const value = o.argChoices ?? (FILES.test(o.flags) ? 'file' : 'other');
    return { name: o.long ?? o.flags, text: o.description, value: taken ? value : null };
  });
  options.push({ name: '--help', text: 'what it does, its options, an example', value: null });
  const words = parser.registeredArguments[0]?.argChoices ?? [];
  return { name: command.name, summary: command.summary, options, words };
}
