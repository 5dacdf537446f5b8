/** Measures one case: `node` with the options of `MEASURING` and `one.js TITLE ROUNDS` prints its `Measured` as a line of JSON. */
import { ViommuError } from '../../src/core/errors.ts';
import { titleOf } from './case.ts';
import { CASES } from './cases/index.ts';
import { measure } from './measure.ts';

const [title, rounds] = process.argv.slice(2);
const found = CASES.find((c) => titleOf(c) === title);
if (found === undefined) throw new ViommuError('EINVAL', 'caller', `no case is called ${title}`);
process.stdout.write(`${JSON.stringify(await measure(found, Number(rounds)))}\n`);
