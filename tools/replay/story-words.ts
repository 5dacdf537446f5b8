import type { RegisterTable } from '../../src/core/registers.ts';
import { PAGE0, PAGE1, PAGE1_BASE } from '../../src/spec/smmuv3/registers.ts';
import { PAGE } from '../../src/spec/vtd/registers.ts';
import type { StoryWords } from './story.ts';

function names(table: RegisterTable, base: number): [number, string][] {
  return Object.entries(table).map(([name, r]) => [base + r.at, name]);
}

const SMMUV3 = new Map([...names(PAGE0, 0), ...names(PAGE1, PAGE1_BASE)]);
const VTD = new Map(names(PAGE, 0));

export const SMMUV3_WORDS: StoryWords = {
  commands: 'before',
  register: (offset) => SMMUV3.get(offset) ?? `register 0x${offset.toString(16)}`,
  stream: (command, words) =>
    /CFGI_STE$|CFGI_CD$|CFGI_CD_ALL$|PREFETCH|ATC_INV$/.test(command) ? (words[1] ?? -1) : -1,
};

export const VTD_WORDS: StoryWords = {
  commands: 'after',
  register: (offset) => VTD.get(offset) ?? `register 0x${offset.toString(16)}`,
  stream: (command, words) => (command === 'device' ? (words[1] ?? 0) & 0xffff : -1),
};
