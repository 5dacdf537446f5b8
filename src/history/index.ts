export { History } from './history.ts';
export {
  LANE,
  type Lane,
  type Moment,
  type MomentArgs,
  momentOf,
  type ToldArgs,
  type ToldHex,
  type ToldMoment,
  type ToldValue,
} from './moment.ts';
export { type NamedRegister, registerName, WINDOW_REGISTERS } from './registers.ts';
export { ToldHistory } from './told-history.ts';
export type { GuestWalk, WalkStep } from './walk.ts';
export { smmuv3GuestWalk } from './walk-smmuv3.ts';
export { vtdGuestWalk } from './walk-vtd.ts';
