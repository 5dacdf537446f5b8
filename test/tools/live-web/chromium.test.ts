import { afterEach, expect, test } from 'vitest';
import { chromiumPath } from '../../../tools/live-web/chromium.ts';

const own = process.env.CHROMIUM;
afterEach(() => {
  if (own === undefined) delete process.env.CHROMIUM;
  else process.env.CHROMIUM = own;
});

test('a machine without a Chromium is told the command that installs one', () => {
  process.env.CHROMIUM = '/nowhere/chromium';
  expect(() => chromiumPath(['/not/there'])).toThrow('no Chromium: apt-get install chromium');
});

test('one that is named comes before those that are found', () => {
  process.env.CHROMIUM = process.execPath;
  expect(chromiumPath(['/bin/sh'])).toBe(process.execPath);
  process.env.CHROMIUM = '/nowhere/chromium';
  expect(chromiumPath(['/not/there', '/bin/sh'])).toBe('/bin/sh');
});
