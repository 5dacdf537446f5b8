import { registerName } from '../../src/history/index.ts';
import type { StoryWords } from './story.ts';

export const SMMUV3_WORDS: StoryWords = {
  commands: 'before',
  register: (offset) => registerName('smmuv3', offset),
  stream: (command, words) =>
    /CFGI_STE$|CFGI_CD$|CFGI_CD_ALL$|PREFETCH|ATC_INV$/.test(command) ? (words[1] ?? -1) : -1,
};

export const VTD_WORDS: StoryWords = {
  commands: 'after',
  register: (offset) => registerName('vtd', offset),
  stream: (command, words) => (command === 'device' ? (words[1] ?? 0) & 0xffff : -1),
};
