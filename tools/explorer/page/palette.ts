import { LANE, type Lane } from '../../../src/history/index.ts';

/** Colours of the timeline, which is drawn and not styled. */
export interface Palette {
  readonly lanes: { readonly [lane in Lane]: string };
  readonly text: string;
  readonly faint: string;
  readonly line: string;
  readonly stripe: string;
  readonly background: string;
  readonly cause: string;
  readonly effect: string;
  readonly selected: string;
  readonly markA: string;
  readonly markB: string;
  readonly error: string;
  readonly warning: string;
  readonly found: string;
  /** Text on a mark. */
  readonly onMark: string;
}

export const LIGHT: Palette = {
  lanes: {
    [LANE.MEMORY]: '#6b7787',
    [LANE.REGISTERS]: '#3b6fb6',
    [LANE.COMMANDS]: '#7446b5',
    [LANE.HOST]: '#0f7f6e',
    [LANE.HARDWARE]: '#8a6d1a',
    [LANE.ACCESSES]: '#2f7d32',
    [LANE.FAULTS]: '#c62828',
    [LANE.PAGE_REQUESTS]: '#b5570b',
    [LANE.INTERRUPTS]: '#ad2f7c',
    [LANE.NOTES]: '#5a5a5a',
  },
  text: '#1d2430',
  faint: '#5b6675',
  line: '#d5dae1',
  stripe: '#f3f5f8',
  background: '#ffffff',
  cause: '#b3261e',
  effect: '#0b57d0',
  selected: '#111827',
  markA: '#0b57d0',
  markB: '#b5570b',
  error: '#c62828',
  warning: '#b5570b',
  found: '#e0a800',
  onMark: '#ffffff',
};

export const DARK: Palette = {
  lanes: {
    [LANE.MEMORY]: '#93a1b3',
    [LANE.REGISTERS]: '#79aef0',
    [LANE.COMMANDS]: '#bc9bf5',
    [LANE.HOST]: '#4fc9b3',
    [LANE.HARDWARE]: '#d9bb5a',
    [LANE.ACCESSES]: '#7fce83',
    [LANE.FAULTS]: '#ff7b72',
    [LANE.PAGE_REQUESTS]: '#f2a35e',
    [LANE.INTERRUPTS]: '#f08cc6',
    [LANE.NOTES]: '#b4bac4',
  },
  text: '#e4e8ee',
  faint: '#9aa5b4',
  line: '#333c48',
  stripe: '#1a2028',
  background: '#141920',
  cause: '#ff8a80',
  effect: '#8ab4f8',
  selected: '#ffffff',
  markA: '#8ab4f8',
  markB: '#f2a35e',
  error: '#ff7b72',
  warning: '#f2a35e',
  found: '#ffd54a',
  onMark: '#10151b',
};
