/** The machine recordings are replayed on. */
export { makeReplayMachine as makeMachine } from '../../src/machine/replay.ts';
