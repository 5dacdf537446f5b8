export { type Blame, type Code, type Facts, ViommuError } from './core/errors.ts';
